"""The judge stays apart from the judged: where a candidate runs, what it can reach, when it ends, what is shown."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinymaml import oracle
from tinymaml.cli import main
from tinymaml.oracle import tolerance
from tinymaml.oracle.cases import load
from tinymaml.oracle.judge import apart, checking, progress, protocol, worker
from tinymaml.oracle.judge.guard import Guarded
from tinymaml.oracle.judge.pytest_plugin import Judgement
from tinymaml.oracle.mistakes.semantics import run
from tinymaml.oracle.pages.report import Report
from tinymaml.oracle.questions import Answered, case_ids, fresh, questions, seed_for, selected

ROOT = Path(oracle.__file__).parents[2]
pytestmark = pytest.mark.usefixtures("computed_once")
posix = pytest.mark.skipif(os.name != "posix", reason="needs processes of POSIX")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")

RIGHT = """
import os, signal, subprocess, sys, time
from tinymaml.oracle import tolerance
from tinymaml.oracle.catalogue import run_form
from tinymaml.oracle.judge import protocol
from tinymaml.oracle.pages import report
from tinymaml.oracle.pages.report import Report
from tinymaml.oracle.mistakes.semantics import run

def right(case):
    value, grads = tolerance.engine_answer(case)
    return {"meta_grad": grads, "meta_loss": value}

def fomaml(case):
    return {"meta_grad": run(case, factors="detached").meta_grad}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder of the candidate's own; `folder(name, source)` writes a module into it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_ADDOPTS", "")

    def write(name: str, source: str) -> Path:
        (tmp_path / f"{name}.py").write_text(RIGHT + source, encoding="utf-8")
        return tmp_path

    return write


def said(report) -> str:
    return "\n".join([report.explanation, *report.notes])


def gone(*pids: int) -> bool:
    """Whether the processes end soon."""
    until = time.monotonic() + 15
    while time.monotonic() < until:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pids(path: Path, count: int) -> list[int]:
    """The numbers in a file, once there are so many."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = path.read_text(encoding="utf-8").split() if path.exists() else []
        if len(found) >= count:
            return [int(pid) for pid in found]
        time.sleep(0.02)
    raise AssertionError(f"{path} does not hold {count} numbers")


# ── what a candidate does while it is imported ──────────────────────────────────────────────────────────────────────

IMPORTS = {  # source → verdict on `right`, asked for one case; what is said
    "os._exit(0)": ("PROTOCOL_ERROR", "missing, and all that follow (0 of 9 came): the program ended with exit code 0"),
    "sys.exit(0)": ("PROTOCOL_ERROR", "it says: theirs:right cannot be imported: SystemExit: 0 ("),
    "os.kill(os.getpid(), signal.SIGSEGV)": ("PROTOCOL_ERROR", "the program was ended by signal SIGSEGV"),
    "def broken(:": ("PROTOCOL_ERROR", "cannot be imported: SyntaxError: invalid syntax (theirs.py, line "),
    "import not_there": ("PROTOCOL_ERROR", "cannot be imported: ModuleNotFoundError: No module named 'not_there' ("),
    "raise KeyboardInterrupt": ("PROTOCOL_ERROR", "cannot be imported: KeyboardInterrupt ("),
    "del right": ("PROTOCOL_ERROR", "cannot be imported: ValueError: theirs has no function 'right'"),
    "right = 7": ("PROTOCOL_ERROR", "ValueError: theirs:right is of the type int, wanted a function"),
    "while True: pass": ("PROTOCOL_ERROR", "no answer within 0.4 s"),
    "os.kill(os.getpid(), signal.SIGSTOP)": ("PROTOCOL_ERROR", "no answer within 0.4 s"),
    "print('CORRECT', flush=True); os.write(1, b'{}\\n' * 9)": ("INCONCLUSIVE", ""),
    "sys.stdin.close(); sys.stdout.close(); os.close(0); os.close(1)": ("INCONCLUSIVE", ""),
    "os.fork()": ("INCONCLUSIVE", ""),
    "os.closerange(3, 500)": ("PROTOCOL_ERROR", "the answer is missing"),
}  # fmt: skip


# The others cannot be imported either, and one function describes why: see below.
ALIKE = ("sys.exit(0)", "def broken(:", "import not_there", "raise KeyboardInterrupt", "right = 7")


@posix
@pytest.mark.parametrize("source", [
    pytest.param(source, marks=pytest.mark.slow) if source in ALIKE else source for source in IMPORTS
])  # fmt: skip
def test_what_is_done_at_import(source, folder, monkeypatch):
    """One line says what is wrong; what does no harm does not."""
    folder("theirs", source)
    verdict, words = IMPORTS[source]
    timeout = 0.4 if "within" in words else 60
    if timeout < 60:
        monkeypatch.setattr(protocol, "GRACE", 0.1)
    report = protocol.check_function("theirs:right", timeout=timeout, cases=["tanh"])
    assert report.verdict == verdict and report.exit_code == 1 and words in report.explanation, report


@pytest.mark.parametrize("source", ALIKE)
def test_what_cannot_be_imported_is_said_in_one_line(source, folder, monkeypatch):
    folder("alike", source)
    monkeypatch.setattr(sys, "path", list(sys.path))  # which gets the current folder
    monkeypatch.delitem(sys.modules, "alike", raising=False)
    with pytest.raises(worker.Unusable) as error:
        worker._function("alike:right")(None)
    words = IMPORTS[source][1].removeprefix("it says: ").replace("theirs", "alike")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_there_is_no_such_module(folder):
    report = protocol.check_function("not_there.either:right", cases=["tanh"])
    assert "ImportError: there is no module 'not_there' here, nor on Python's path" in report.explanation
    with pytest.raises(ValueError, match="wanted package.module:function"):
        protocol.check_function("theirs")


def test_a_patched_judge_is_the_candidates_own(folder):
    """What it imports is another process's package; FOMAML stays FOMAML."""
    folder(
        "theirs",
        """
right_of = lambda *args: report.Report("CORRECT")
protocol.conclude = protocol.examine = protocol.read_answers = right_of
tolerance.TAU = tolerance.SEPARATION = float("inf")
report.Report.exit_code = 0
""",
    )
    report = protocol.check_function("theirs:fomaml", cases=["quartic"])
    assert report.verdict == "KNOWN_BUG" and "fomaml" in report.bug and report.exit_code == 1


# ── what it finds in the current folder ─────────────────────────────────────────────────────────────────────────────


def test_modules_in_the_current_folder(folder):
    """A file named like a module of Python, or like this package, is imported neither by the judge nor by the worker
    before the candidate asks for it."""
    here = folder("mine", "")
    (here / "theirs.py").write_text("import json, colorsys, tqdm\ndef right(case): raise ValueError(tqdm.__file__)")
    spy = "import os; open('spied', 'a').write(__name__ + ' ')"
    for name in ("tinymaml", "json", "queue", "socket", "numpy", "subprocess", "select", "sitecustomize", "colorsys",
                 "tqdm"):  # fmt: skip
        (here / f"{name}.py").write_text(spy, encoding="utf-8")
    judge = apart.command("tinymaml.cli", "oracle", "check", "theirs:right", "--case", "tanh", isolated=True)
    done = subprocess.run(judge, capture_output=True, encoding="utf-8", timeout=90)
    assert "it says: ValueError: " in " ".join(done.stdout.split()), done
    assert (here / "spied").read_text(encoding="utf-8").split() == ["colorsys", "tqdm"]


def test_a_candidate_cannot_give_the_judge_a_module(folder, monkeypatch):
    """While it runs, the judge looks for nothing in the current folder, where the candidate can write."""
    here = folder("theirs", "")
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.syspath_prepend("")
    with apart.without_current_folder():
        assert importlib.util.find_spec("theirs") is None
    assert importlib.util.find_spec("theirs")


# ── pytest ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def items_of(target: str, *options: str) -> subprocess.CompletedProcess:
    without = [option for plugin in ("cacheprovider", "hypothesispytest") for option in ("-p", f"no:{plugin}")]
    command = [sys.executable, "-m", "pytest", "-q", *without, f"--maml-oracle={target}", *options]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)


@pytest.mark.parametrize("algorithm", ["maml", "reptile"])
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_the_tests_are_those_of_the_cases_that_are_asked(dtype, algorithm):
    asked, _ = questions("core", dtype, ("first_order",), 0, (), algorithm)
    assert case_ids("core", dtype, ("first_order",), 0, algorithm) == [q.id for q in asked if q.role == "case"]


def test_a_candidate_that_leaves_under_pytest(folder):
    """One failed test, and a line that says why; pytest's exit code is 1, whatever its conftest.py has patched."""
    folder("theirs", "os._exit(0)")
    folder("conftest", "protocol.check_function = protocol.conclude = lambda *a, **k: report.Report('CORRECT')")
    done = items_of("theirs:right", "-k", "tanh")
    assert done.returncode == 1 and "1 failed" in done.stdout
    assert (
        "case tanh: the answer is missing, and all that follow (0 of 9 came): the program ended with exit code 0\n"
        in done.stdout
    ), done.stdout


def judged(target: str, **options) -> Judgement:
    """What the tests of pytest would be told, with no pytest around them."""
    given = {"--maml-oracle": target, "--maml-oracle-suite": "core", "--maml-oracle-dtype": "float64",
             "--maml-oracle-timeout": 60, "--maml-oracle-algorithm": "maml", "--maml-oracle-capability": [],
             "capture": "fd"} | options  # fmt: skip
    judgement = Judgement(SimpleNamespace(getoption=given.get))
    judgement._judge(["quartic"], fail_fast=False)
    return judgement


FORGED = """
def forge(text):
    judge = int(open(f"/proc/{os.getppid()}/stat").read().rpartition(")")[2].split()[1])
    with open(f"/proc/{judge}/fd/1", "w") as pipe: pipe.write(text)
    return judge
passed = '{"report": {"verdict": "CORRECT", "bug": null, "explanation": "", "cases": []}, "text": ""}'
def twice(case): return forge(passed + "\\n") and right(case)
def instead(case): os.kill(forge(passed), 9)
def before(case): return forge(passed + "\\n#") and right(case)
"""


@linux
@pytest.mark.parametrize("name", ["twice", "instead", "before"])
def test_forged_reports(name, folder):
    """A candidate writes a report of its own into the pipe from the judge to pytest, and may kill the judge."""
    folder("theirs", FORGED)
    judgement = judged(f"theirs:{name}")
    assert judgement.report["verdict"] == "PROTOCOL_ERROR" and "without a report" in judgement.said
    assert not judgement.rows


def test_only_the_oracles_tests_are_collected(folder):
    """A test module that imports the candidate is not looked at, nor a name in the current folder; -k selects of the
    cases of the algorithm."""
    here = folder("theirs", "print('one moment')\ndef other(case): return {'meta_grad': run_form(case, {}).meta_grad}")
    (here / "test_theirs.py").write_text("import os; os._exit(0)", encoding="utf-8")
    done = items_of("theirs:other", "--maml-oracle-algorithm=reptile", "-k", "quadratic or one", "-s",
                    "--maml-oracle-json=report.json")  # fmt: skip
    assert done.returncode == 0 and "2 passed" in done.stdout and "one moment" in done.stderr, done
    saved = json.loads((here / "report.json").read_text(encoding="utf-8"))
    assert (saved["verdict"], saved["algorithm"]) == ("INCONCLUSIVE", "reptile")
    assert [c["id"] for c in saved["cases"]] == ["reptile/quadratic", "reptile/one-step"]


def test_the_candidates_words_under_pytest(folder):
    folder("theirs", "print('one moment')\ndef right(case): print('about', case.tasks); raise ValueError('no')")
    done = items_of("theirs:right", "-k", "tanh")
    assert done.returncode == 1 and "it says: ValueError: no (" in done.stdout
    assert re.search("Captured stderr.*one moment.*about 3", done.stdout, re.DOTALL)


@pytest.mark.parametrize("target, words", [
    ("conftest:right", "pytest imports conftest.py into its own process"),
    ("theirs", "wanted package.module:function"),
])  # fmt: skip
def test_targets_that_pytest_refuses(target, words, folder):
    folder("conftest", "open('imported', 'w'); os._exit(0)" if "conftest" in target else "")
    done = items_of(target)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR and words in done.stdout + done.stderr, done
    assert not Path("imported").exists()


# ── when it ends ────────────────────────────────────────────────────────────────────────────────────────────────────

LASTING = """
def right(case):
    with open("pids", "a") as file: file.write(f"{os.getpid()}\\n")
    child = "import os, time; open('pids', 'a').write(f'{os.getpid()}\\\\n'); time.sleep(600)"
    subprocess.Popen([sys.executable, "-S", "-c", child], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open("pids", "a") as file: file.write(f"{os.getpid()}\\n")
            time.sleep(600)
        os._exit(0)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)
    while True: time.sleep(600)
"""

ENDS = {"SIGTERM": (143,), "SIGINT": (130,), "pytest SIGKILL": (-9,), "program SIGKILL": (-9,), "SIGHUP": (129,),
        "SIGKILL": (-9,), "pytest SIGTERM": (-15, 143), "program SIGTERM": (143,)}  # fmt: skip


@linux
@pytest.mark.parametrize("names", [
    pytest.param(list(ENDS)[:4], id="a signal of each kind"),
    pytest.param(list(ENDS)[4:], id="the others", marks=pytest.mark.slow),
])  # fmt: skip
def test_what_ends_with_the_check(names, folder, tmp_path):
    """The worker, its child, one in a session of its own, one whose parent has ended: none survives the judge."""
    folder("theirs", LASTING)
    running = {}
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "theirs.py").write_text((tmp_path / "theirs.py").read_text(encoding="utf-8"))
        (tmp_path / name / "program.py").write_text(
            (tmp_path / "theirs.py").read_text(encoding="utf-8").replace("from tinymaml", "# ") + "\nright(None)"
        )
        command = {
            "pytest": ["pytest", "-q", "-p", "no:cacheprovider", "--maml-oracle=theirs:right", "-k", "tanh"],
            "program": ["tinymaml", "oracle", "check", "--case", "tanh", "--", sys.executable, "-S", "program.py"],
        }.get(name.split()[0], ["tinymaml", "oracle", "check", "theirs:right", "--case", "tanh"])
        heard = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)  # noqa: E731 (under nohup it would be ignored)
        running[name] = subprocess.Popen([sys.executable, "-m", *command], cwd=tmp_path / name, preexec_fn=heard,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    for name, process in running.items():
        left = pids(tmp_path / name / "pids", 3)
        process.send_signal(getattr(signal, name.split()[-1]))
        code = process.wait(timeout=60)
        if "SIGKILL" not in name and "pytest" not in name:
            assert not any(map(alive, left)), name  # already when the command has ended
        assert code in ENDS[name] and gone(*left), name


@linux
@pytest.mark.parametrize("ends", [True, False])
def test_a_guard_ends_what_is_left(ends, tmp_path):
    """A zombie, a stopped child, a daemon that holds the pipes open; the program ends by itself, or is ended."""
    (tmp_path / "program.py").write_text(
        f"""
import os, signal, sys, time
def child(stopped=False, daemon=False):
    if os.fork() == 0:
        if daemon and (os.setsid(), os.fork())[1]:
            os._exit(0)
        os.write(1, b"%d\\n" % os.getpid())
        if stopped: os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)
child(); child(stopped=True); child(daemon=True)
if os.fork() == 0: os._exit(0)
os.write(2, b"last words")
if not {ends}: os.kill(os.getppid(), signal.SIGSTOP); time.sleep(600)
""",
        encoding="utf-8",
    )
    with Guarded([sys.executable, "-I", "-S", str(tmp_path / "program.py")]) as program:
        left = [int(program.stdout.readline()) for _ in range(3)]
        assert program.wait(60 if ends else 0.1) == (0 if ends else None)
        assert all(map(alive, left))
    assert not any(map(alive, left)) and program.said() == "last words"


@posix
def test_a_program_that_cannot_be_started():
    with pytest.raises(FileNotFoundError) as error:
        Guarded(["./not-there"])
    assert error.value.filename == "./not-there"
    with pytest.raises(PermissionError):
        Guarded(["/"])


# ── what is shown ───────────────────────────────────────────────────────────────────────────────────────────────────


def command(*arguments: str, capsys) -> tuple[int, str, str]:
    code = main(["oracle", "check", *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_verbose(folder, few_forms, capsys):
    """A line per answer, on standard error; between them what the candidate prints, as it comes."""
    folder("theirs", "def talks(case): print('thinking'); return fomaml(case)")
    code, out, err = command("theirs:talks", "--case", "tanh", "-v", "--json", capsys=capsys)
    assert code == 1 and json.loads(out)["verdict"] == "KNOWN_BUG"
    assert err.count("thinking\n") == len(re.findall("^tanh", err, re.M)) == json.loads(out)["asked"]
    assert re.search(r"^tanh +wrong +0\.\d digits  off by \d\.\de\+00  \d+\.\d s$", err, re.M), err
    code, out, err = command("theirs:right", "--case", "tanh", capsys=capsys)
    assert code == 1 and out.startswith("INCONCLUSIVE") and err == ""  # in a pipe nothing is shown
    assert "only the cases that were chosen were asked: tanh" in " ".join(out.split())


def test_fail_fast(folder, capsys):
    folder(
        "theirs",
        """
def later(case):
    if len(case.params) != 4: raise ValueError("no such layer")
    return right(case)
""",
    )
    code, out, err = command("theirs:later", "--fail-fast", "-v", "--json", "--case", "t*", "--case", "sq",
                             "--seed", "0", capsys=capsys)  # fmt: skip
    report, lines = json.loads(out), [line for line in err.splitlines() if re.match("[a-z]+  ", line)]
    assert code == 1 and report["verdict"] == "PROTOCOL_ERROR" and "no such layer" in report["explanation"]
    assert re.match("tanh +right ", lines[0]) and "no answer: it says: ValueError: no such layer" in lines[-1]
    assert any(note.startswith(f"stopped at the first wrong case: {len(lines)} of ") for note in report["notes"])
    assert sum(line.split()[1] != "right" for line in lines) == 1


def test_in_this_process(few_forms, capsys):
    """`oracle.check` takes the same."""
    came = []
    wrong = lambda case: {"meta_grad": run(case, factors="detached").meta_grad}  # noqa: E731
    report = oracle.check(wrong, cases=["tanh", "softm"], progress=came.append)
    assert {c.id for c in report.cases} == {"tanh", "softmax"} and report.verdict == "KNOWN_BUG"
    assert report.asked == len(came)
    assert [(c.at, c.of) for c in came if c.kind == "case"] == [(1, 2), (2, 2)]
    start = time.monotonic()
    report = oracle.check(wrong, cases="s*", fail_fast=True, progress=True, seed=0)
    assert len(report.cases) == 1 and 0 < report.seconds <= time.monotonic() - start
    assert capsys.readouterr().err.startswith(f"{report.cases[0].id} ")


def test_cases_are_chosen_by_id_beginning_or_pattern():
    ids = [c.id for c in load("core")]
    named = lambda *only: selected(ids, only)  # noqa: E731
    assert named() == {*ids} and named("tanh") == {"tanh"} and named("softm", "tanh") == {"tanh", "softmax"}
    assert named("*-1") == {i for i in ids if i.endswith("-1")}
    with pytest.raises(ValueError, match="no case 'softmaks' in this suite; is it softmax"):
        named("softmaks")
    asked, _ = questions(only=("fresh-7-1",))
    assert {q.case.id for q in asked if q.role == "case"} == {"fresh-7-1"}  # the seed is in the id


def test_new_cases_are_others_each_time():
    assert len({seed_for((), None) for _ in range(4)}) == 4
    assert [seed_for((), 5), seed_for(("tanh", "fresh-7-1"), None), seed_for(("fresh-7-1",), 5)] == [5, 7, 5]


@pytest.mark.parametrize(
    ("algorithm", "only", "new"),
    [
        ("maml", (), True),
        ("maml", ("*",), True),
        ("maml", ("fr",), True),
        ("maml", ("tanh", "fresh-7-0"), True),
        ("maml", ("tanh",), False),
        ("maml", ("s*",), False),
        ("reptile", ("reptile/fre",), True),
        ("reptile", ("reptile/soft",), False),
    ],
)
def test_new_cases_are_drawn_only_if_they_are_meant(algorithm, only, new, monkeypatch):
    honest, draws = fresh, []
    monkeypatch.setattr("tinymaml.oracle.questions.fresh", lambda *args: draws.append(args) or honest(*args))
    asked, _ = questions(only=only, seed=7, algorithm=algorithm)
    assert any("fresh-7-" in q.case.id for q in asked) == bool(draws) == new


def test_what_is_asked_again_with_other_numbers_has_no_answer():
    asked, _ = questions(only=("tanh",))
    assert all(q.case.answer is None for q in asked if q.role in ("changed", "moved"))


class Terminal:
    """A stream that says it is a terminal."""

    def __init__(self, terminal=True):
        self.text, self.isatty, self.flush = "", lambda: terminal, lambda: None

    def write(self, text):
        self.text += text


def test_the_line_that_counts():
    """It is the last line of a terminal, is written anew below what the candidate says, and is gone at the end."""
    question, again = questions(only=("tanh",))[0][:2]
    right = question.case.answer
    for terminal in (True, False):
        stream = Terminal(terminal)
        with progress.Screen(stream=stream) as screen:
            watch = progress.Watch(screen.show)
            watch.asks([question, again])
            watch.came(question, Answered(grad=right.meta_grad))
            screen.echo("θ".encode()[:1])
            screen.echo("θ".encode()[1:] + b"!\n")
            watch.came(again, Answered(grad=right.meta_grad))
            assert watch.all_came and not watch.stopped
        if terminal:
            assert re.fullmatch(r"case 1 of 1, \d+ s(\r +\r.*)*\r +\r", stream.text, re.DOTALL), stream.text
            assert "\rθ!\ncase 1 of 1, " in stream.text and "\rrepeat 1 of 1, " in stream.text
        else:
            assert stream.text == "θ!\n"


def test_a_wrong_meta_loss_is_wrong():
    question = questions(only=("tanh",))[0][0]
    right, came = question.case.answer, []
    watch = progress.Watch(came.append, fail_fast=True)
    watch.asks([question] * 3)
    for loss in (None, right.meta_loss, right.meta_loss * (1 + 1e-12)):
        assert not watch.stopped
        watch.came(question, Answered(grad=right.meta_grad, meta_loss=loss))
    assert [c.right for c in came] == [True, True, False] and watch.stopped


# ── what comes with an answer ───────────────────────────────────────────────────────────────────────────────────────


LIBRARIES = ("numpy", "torch", "jax")


# To import one of the others takes seconds.
@pytest.mark.parametrize("library", [
    pytest.param(name, marks=pytest.mark.slow) if name != "numpy" else name for name in LIBRARIES
])  # fmt: skip
def test_which_library_was_used(library, folder):
    pytest.importorskip(library)
    folder("theirs", f"def uses(case):\n    case.{library}()\n    return right(case)")
    assert protocol.check_function("theirs:uses", cases=["tanh"]).framework == library


@pytest.mark.parametrize("library", LIBRARIES)
def test_which_library_was_used_in_this_process(library):
    pytest.importorskip(library)

    def uses(case):
        getattr(case, library)()
        value, grads = tolerance.engine_answer(case)
        return {"meta_grad": grads, "meta_loss": value}

    assert oracle.check(uses, cases="quartic").framework == library


def test_no_library_was_used(folder):
    folder("theirs", "")
    assert protocol.check_function("theirs:right", cases=["tanh"]).framework == ""


@pytest.mark.parametrize("field, words", [
    ('"framework": "keras"', "framework is 'keras', wanted one of '', 'numpy', 'torch', 'jax'"),
    ('"changed_inputs": "no"', "changed_inputs is 'no', wanted one of False, True"),
    ('"meta_loss": 1, "meta_loss": 2', "'meta_loss' stands twice in an object"),
])  # fmt: skip
def test_fields_of_an_answer(field, words):
    (question, *_), _ = questions(only=("tanh",), seed=0)
    prefix = protocol.token("core", "float64", (), 0)
    grads = json.dumps({n: g.tolist() for n, g in question.case.answer.meta_grad.items()})
    line = f'{{"id": "{prefix}/tanh", "meta_grad": {grads}, {field}}}'
    assert words in protocol.read_answers([question], prefix, iter([line]))["tanh"].problem


@pytest.mark.parametrize("verdict, more", [("CORRECT", False), ("KNOWN_BUG", False), ("WRONG_UNKNOWN", True)])
def test_the_other_questions_are_asked_if_they_are_needed(verdict, more, monkeypatch):
    """A right answer, or a known mistake, needs no other θ for every kind of model; an unknown mistake does."""
    asked, _ = questions(only=("tanh", "softm"))
    rounds = []
    monkeypatch.setattr(checking, "conclude", lambda *args: Report(verdict))

    def ask(some):
        rounds.append({q.case.model["loss"] for q in some if q.role == "moved"})
        return {q.id: Answered() for q in some}

    report = checking.examine(asked, {}, ask, "core", "float64", (), progress.Watch())
    assert rounds == [{"mse"}, {"cross_entropy"}][: 1 + more]
    assert (report.asked == len(asked)) == more


def test_every_answer_is_confirmed_while_it_is_awaited(folder, monkeypatch):
    """A stored answer that the engine does not give is noticed, though the candidate has answered."""
    folder("theirs", "")
    engine = tolerance.engine_answer
    monkeypatch.setattr(tolerance, "engine_answer", lambda case: (engine(case)[0] + 1e-9, engine(case)[1]))
    with pytest.raises(oracle.Tampered, match="case tanh: the stored answer is"):
        protocol.check_function("theirs:right", cases=["tanh"])
