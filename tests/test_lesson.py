"""The lesson: its chapters run, its page is whole, its drawings are right, and its exercise can be solved."""

import builtins
import json
import re
import secrets
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from tinymaml.cli import main
from tinymaml.lessons import CHAPTERS, commands, growth, markup, page, show, svg

FILES = [page.HERE / f"{name}.py" for name in CHAPTERS]
QUICK = ("one_number", "gradient_of_gradient")  # the others train, compile, or ask the oracle
VOID = {"meta", "link", "input"}


class Nesting(HTMLParser):
    """Raises, where an element closes that is not the open one; notes the ids and what the page would fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.ids, self.fetched = [], [], []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag in ("script", "img", "link", "iframe", "source"):
            self.fetched += [x for x in (attrs.get("src"), attrs.get("href")) if x and not x.startswith("data:")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"{tag} closes something else, at {self.getpos()}"


@pytest.fixture(scope="module")
def quick():
    return page.build(QUICK)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The whole page, in a file."""
    pytest.importorskip("numba")
    return page.write(tmp_path_factory.mktemp("lesson") / "lesson.html")


# ── the page ──


def check_page(text: str, chapters) -> None:
    found = Nesting(text)
    assert len(found.ids) == len(set(found.ids)) and set(chapters) <= set(found.ids)
    assert not found.fetched and "http://" not in text and "@import" not in text
    assert not re.search(r'(points|d|x1|cx)="[^"]*(nan|inf)', text)
    for name in re.findall(r'href="#(\w+)"', text):
        assert name in found.ids
    for figure in re.findall(r"<figure class=\"sliders\">.*?</figure>", text, re.DOTALL):
        states = json.loads(re.search(r'<script type="application/json">(.*?)</script>', figure, re.DOTALL)[1])
        sizes = [int(n) + 1 for n in re.findall(r'max="(\d+)"', figure)]
        assert len(states) == np.prod(sizes)
        assert len({json.dumps(state) for state in states}) == len(states), "two states look alike"
    for clip in re.findall(r"url\(#(\w+)\)", text):
        assert clip in found.ids


def test_a_page_of_some_chapters_is_whole(quick):
    check_page(quick, QUICK)
    assert 'id="two_parameters"' not in quick


@pytest.mark.slow
def test_the_whole_page_is_whole(whole):
    check_page(whole.read_text("utf-8"), CHAPTERS)


@pytest.mark.parametrize(("what", "instead"), [
    ("</section>", "</section></p>"), ("<head>", '<head><script src="https://somewhere/x.js"></script>'),
    ('href="#one_number"', 'href="#one"'), ('max="22"', 'max="21"'), ('points="', 'points="nan,1 '),
    ('"note": "', '"note": "<i>'),
])  # fmt: skip
def test_a_page_that_is_not_whole_is_refused(quick, what, instead):
    planted = quick.replace(what, instead)
    if what == '"note": "':  # all states of a figure are the first one
        planted = re.sub(r'(json">\[)(\{.*?\}), \{.*?\}, ', r"\1\2, \2, ", quick, count=1)
    assert planted != quick
    with pytest.raises(AssertionError):
        check_page(planted, QUICK)


def test_an_error_in_a_chapter_leaves_no_page_and_names_the_line(tmp_path, monkeypatch):
    (tmp_path / "one_number.py").write_text("# %% [markdown]\n# # Title\n\n# %%\nx = 1\nx / 0\n", "utf-8")
    monkeypatch.setattr(page, "HERE", tmp_path)
    with pytest.raises(ZeroDivisionError) as error:
        page.write(tmp_path / "lesson.html", ["one_number"])
    assert error.traceback[-1].lineno == 5  # counted from 0
    assert not (tmp_path / "lesson.html").exists()


@pytest.mark.parametrize("path", FILES, ids=CHAPTERS)
def test_no_number_is_typed_into_the_text(path):
    for cell in page.cells(path):
        if cell.kind == "markdown":
            assert not re.search(r"\d\.\d", cell.text), f"a computed number in the text, {path.name}:{cell.line}"


@pytest.mark.parametrize("path", FILES, ids=CHAPTERS)
def test_a_chapter_is_percent_cells_of_which_the_first_is_its_title(path):
    first, *rest = page.cells(path)
    assert first.kind == "markdown" and first.text.startswith("# ")
    assert {"markdown", "code"} <= {cell.kind for cell in rest}
    compile(path.read_text("utf-8"), str(path), "exec")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in CHAPTERS if name not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_a_chapter_runs_as_plain_python(name):
    if name in ("sine_waves", "the_program"):
        pytest.importorskip("numba")
    command = [sys.executable, "-m", f"tinymaml.lessons.{name}"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout


# ── text ──


@pytest.mark.parametrize(("text", "wanted"), [
    ("a *b* **c** `d<e`", "<p>a <em>b</em> <strong>c</strong> <code>d&lt;e</code></p>"),
    ("# T", "<h1>T</h1>"), ("- a\n- b", "<ul><li>a</li><li>b</li></ul>"),
    ("1. a\n2. b", "<ol><li>a</li><li>b</li></ol>"), ("[x](#y)", '<p><a href="#y">x</a></p>'),
    ("<b>raw</b>", "<b>raw</b>"), ("a < b & c", "<p>a &lt; b &amp; c</p>"),
])  # fmt: skip
def test_markdown(text, wanted):
    assert markup.to_html(text) == wanted


@pytest.mark.parametrize(("tex", "words"), [
    (r"\frac{1}{2}", "12"), (r"L''(w)", "L″(w)"), (r"\theta_{k+1}^2", "θk+12"), (r"\sum_t x", "∑tx"),
    (r"\text{two~words}", "two words"), (r"\left( x \right)^{-1}", "(x)−1"),
    (r"\begin{aligned} a &= b \\ &= c \end{aligned}", "a=b=c"), (r"\mathcal{L}", "ℒ"), (r"a < b", "a<b"),
])  # fmt: skip
def test_a_formula_is_well_formed_mathml(tex, words):
    assert "".join(ElementTree.fromstring(markup.mathml(tex)).itertext()) == words


@pytest.mark.parametrize("tex", [r"\unknown", "{x", "x}", r"\frac{1}", "x^", r"\left( x"])
def test_a_formula_that_is_not_understood_is_refused(tex):
    with pytest.raises(ValueError, match="formula"):
        markup.mathml(tex)


@pytest.mark.parametrize("source", ["def f(x):\n    return 'a<b'  # c\n", "    x = 1\n", "for x in (\n"])
def test_highlighting_keeps_every_letter(source):
    text = "".join(ElementTree.fromstring(f"<p>{markup.highlighted(source)}</p>").itertext())
    assert text == source.rstrip("\n") if "def" in source else text.strip() == source.strip()


# ── drawings ──


def test_contours_lie_on_their_level():
    xs, ys = np.linspace(-2, 2, 41), np.linspace(-1, 1, 31)
    values = xs[None, :] ** 2 + ys[:, None] ** 2
    segments = svg.level_segments(xs, ys, values, 0.5)
    points = np.array(segments).reshape(-1, 2)
    assert len(segments) > 20
    assert np.abs((points**2).sum(1) - 0.5).max() < 0.01


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-2.5, 8.5), (0, 2000), (-0.003, 0.004)])
def test_ticks_are_few_and_on_the_axis(low, high):
    found = svg.ticks(low, high, 6)
    assert 2 <= len(found) <= 7 and low <= found[0] and found[-1] <= high


def test_a_drawing_is_well_formed_and_survives_what_is_not_finite():
    figure = svg.Figure((0, 1), (0, 1), title="a < b", xlabel="x", ylabel="y")
    figure.arrow((0, 0), (np.nan, 1), "red", label="a")
    figure.arrow((0.5, 0.5), (1e300, 1), "red")
    figure.arrow((0.5, 0.5), (0.5, 0.5), "red")
    figure.line([0, np.inf, 1], [0, 0, 1e300], "blue")
    figure.dot(np.nan, 0, "blue")
    text = figure.svg()
    ElementTree.fromstring(text)
    assert "nan" not in text and "inf" not in text.replace("infinity", "")


# ── what chapters call ──


def test_a_listing_is_the_source_between_two_lines():
    assert str(show.listing("def f():\n    a = 1\n    b = 2\n    c = 3\n", "a =", "b =")) == "a = 1\nb = 2"
    with pytest.raises(ValueError, match="no line begins with 'z'"):
        show.listing("a = 1\n", "z")


def test_sliders_hold_every_state_and_begin_with_the_start():
    def draw(a, b):
        figure = svg.Figure((0, 1), (0, 1))
        figure.text(0.5, 0.5, f"{a}{b}")
        return figure, f"**{a}** {b}"

    text = show.sliders(draw, a=[1, 2], b=["x", "y", "z"], start={"a": 2, "b": "y"}).html()
    states = json.loads(re.search(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)[1])
    assert [re.search(r">(\w+)</text>", s["fronts"][0])[1] for s in states] == ["1x", "1y", "1z", "2x", "2y", "2z"]
    assert ">2y</text>" in text.split("<script")[0]
    with pytest.raises(ValueError):
        show.sliders(draw, a=[1, 2], b=["x"], start={"a": 3})


def test_what_is_printed_and_shown_keeps_its_order():
    sheet = show.Sheet()
    sheet.write("one")
    sheet.add("<b>two</b>")
    sheet.write("three")
    sheet.finish()
    assert [re.sub("<.*?>", "", part) for part in sheet.parts] == ["one", "two", "three"]


def test_in_a_notebook_things_are_displayed_and_sliders_move(monkeypatch):
    displayed = []
    module = SimpleNamespace(HTML=lambda text: text, display=displayed.append)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(builtins, "get_ipython", lambda: None, raising=False)
    show.say("*one*")
    show.show(show.sliders(lambda a: (svg.Figure((0, a), (0, 1)), ""), a=[1, 2]))
    assert displayed[0] == "<p><em>one</em></p>"
    assert "addEventListener" in displayed[1]


def test_the_curves_solve_their_tasks():
    for curve, *data in zip(growth.CURVES, *growth.TASKS[0], strict=True):
        assert growth.loss(curve, *data) < 1e-30


# ── the command ──


def test_the_exercise_is_broken_twice_and_can_be_mended(tmp_path, monkeypatch, capsys, confirmed_once, few_forms):
    monkeypatch.setattr(secrets, "randbelow", lambda n: 0)  # the same new cases for both
    monkeypatch.chdir(tmp_path)
    assert main(["lesson", "exercise", "--to", "mine.py"]) == 0
    broken = Path("mine.py").read_text("utf-8")
    assert main(["lesson", "exercise", "--to", "mine.py"]) == 1  # it may hold work
    capsys.readouterr()

    def verdict(text: str) -> tuple[int, str]:
        Path("mine.py").write_text(text, "utf-8")
        code = main(["lesson", "check", "mine.py"])
        return code, capsys.readouterr().out

    code, said = verdict(broken)
    assert code == 1 and "stale_gradient" in said and "not yet" in said
    half = broken.replace("tm.grad(loss)(theta,", "tm.grad(loss)(fast,")
    mended = half.replace("                grads = tm.tree_map(tm.stop_gradient, grads)\n", "")
    assert broken != half != mended
    code, said = verdict(mended)
    assert code == 0 and "CORRECT" in said and "solved" in said


@pytest.mark.parametrize(("name", "wanted"), [("none.py", "none.py"), ("a-b.py", "imported"), ("mine.txt", "imported")])
def test_a_file_that_cannot_be_asked_is_refused(name, wanted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if name != "none.py":
        Path(name).write_text("", "utf-8")
    assert main(["lesson", "check", name]) == 1
    assert wanted in capsys.readouterr().err


def test_another_file_of_that_name_is_not_asked_instead(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("", "utf-8")
    Path("other").mkdir()
    Path("other/mine.py").write_text("", "utf-8")
    assert main(["lesson", "check", "other/mine.py"]) == 1
    assert "another name" in capsys.readouterr().err


def test_the_command_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "CHAPTERS", QUICK[:1])
    monkeypatch.setattr(page.write, "__defaults__", (QUICK[:1], False))
    assert main(["lesson", "--to", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    assert str(tmp_path / "x.html") in capsys.readouterr().out


def test_a_folder_is_no_page(tmp_path, capsys):
    assert main(["lesson", "--to", str(tmp_path)]) == 1
    assert "is a folder" in capsys.readouterr().err


def test_its_style_and_script_are_installed():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    assert all(f'"lessons/{name}"' in text for name in ("page.css", "page.js"))
    assert commands.add_commands


# ── in a browser ──

CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    driver = shutil.which("chromedriver")
    if not CHROME or not driver:
        pytest.skip("no Chromium with its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROME
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-component-update",
                 "disable-background-networking", "disable-sync",
                 f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    one = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield one
    one.quit()


OVERLAPS = """
const found = [];
for (const svg of (arguments[0] || document).querySelectorAll("svg")) {
  const words = [...svg.querySelectorAll("text")].map(t => [t.textContent, t.getBoundingClientRect()]);
  const frame = svg.getBoundingClientRect();
  for (const [i, [a, r]] of words.entries()) {
    if (r.left < frame.left - 1 || r.right > frame.right + 1) found.push(a + " is cut");
    for (const [b, s] of words.slice(i + 1)) {
      const w = Math.min(r.right, s.right) - Math.max(r.left, s.left);
      const h = Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top);
      if (w > 2 && h > 3) found.push(a + " / " + b);
    }
  }
}
return found;
"""
MOVED = """
const [slider, value, figure] = arguments;
slider.value = value;
slider.dispatchEvent(new Event("input"));
return [...figure.querySelectorAll(".front, .note")].map(part => part.innerHTML).join();
"""


def check_in_browser(browser, path: Path, width: int) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})  # fmt: skip
    browser.get(path.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width, "the page is too wide"
    for slider in browser.find_elements("css selector", "figure.sliders input"):
        figure = slider.find_element("xpath", "./ancestor::figure")
        most, began = int(slider.get_attribute("max")), slider.get_attribute("value")
        seen = set()
        for value in range(most + 1):
            seen.add(browser.execute_script(MOVED, slider, value, figure))
            assert not browser.execute_script(OVERLAPS, figure)
        assert len(seen) == most + 1, "a slider does not change the picture"
        browser.execute_script(MOVED, slider, began, figure)
    assert not browser.execute_script(OVERLAPS)
    assert not [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_every_slider_changes_something(browser, quick, width, tmp_path):
    path = tmp_path / "lesson.html"
    path.write_text(quick, "utf-8")
    check_in_browser(browser, path, width)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_the_whole_page_is_right(browser, whole, width):
    check_in_browser(browser, whole, width)


def test_the_browser_finds_planted_errors(browser, tmp_path):
    path = tmp_path / "broken.html"
    path.write_text('<link rel="icon" href="data:,"><svg width="200" height="50"><text x="9" y="20">one</text>'
                    '<text x="12" y="22">two</text></svg><script>throw Error("planted")</script>', "utf-8")  # fmt: skip
    browser.get(path.as_uri())
    assert browser.execute_script(OVERLAPS) == ["one / two"]
    assert any("planted" in entry["message"] for entry in browser.get_log("browser"))
