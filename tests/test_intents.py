"""Intents are CLINC150's, split by domain; words weigh by tf-idf of training alone; bad files are named."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

import tinymaml as tm
from tinymaml.cli import main
from tinymaml.families import intents
from tinymaml.families.intents import FILES, PARTS, IntentTasks, cosines, load, words
from tinymaml.nest import tree_map
from tinymaml.runs import loop
from tinymaml.runs.evaluate import evaluate
from tinymaml.runs.settings import Config

SPLITS = ("train", "val", "test")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def options(small_data) -> dict:
    return small_data("intents")


@pytest.fixture
def family(options) -> IntentTasks:
    return intents.make(intents.Settings(**options))


# ── files of one's own ──────────────────────────────────────────────────────────────────────────────────────────────

DOMAINS = {"a": ["a1", "a2"], "b": ["b1", "b2"], "c": ["c1", "c2"]}


def sentences_of(intent: str, count: int = 6) -> list[str]:
    return [f"say {intent} {'very ' * i}loud number{i}" for i in range(count)]


def data_of(domains=DOMAINS, of=sentences_of) -> dict:
    rows = [[text, intent] for members in domains.values() for intent in members for text in of(intent)]
    return {"train": rows[::3], "val": rows[1::3], "test": rows[2::3], "oos_test": [["what is this", "oos"]]}


def written(folder: Path, data=None, domains=DOMAINS) -> Path:
    for name, content in zip(FILES, (data_of() if data is None else data, domains), strict=True):
        if content is not None:
            text = content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode()
            (folder / name).write_bytes(text)
    return folder


def tasks_of(folder: Path, **options) -> IntentTasks:
    options = dict(ways=2, shots=1, queries=2, test_domains=("c",), val_domains=("b",)) | options
    return IntentTasks(str(folder), **options)


# ── what is drawn ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("split", SPLITS)
def test_a_task_is_of_intents_of_its_domains(family, split):
    content, intents_of = family.content, {split: set(members) for split, members in family.splits.items()}
    episodes = family.episodes(rng(), 30, split)
    assert set(episodes.classes.flat) <= intents_of[split]
    domains = {split: {content.domains[c] for c in members} for split, members in intents_of.items()}
    assert domains["test"] == set(family.domains["test"]) and domains["val"] == set(family.domains["val"])
    assert not any(domains[a] & domains[b] for a in SPLITS for b in SPLITS if a != b) and domains["train"]


def test_x_is_the_words_of_the_chosen_sentences(family):
    episodes = family.episodes(rng(3), 4, "train")
    for part, (x, y) in zip((episodes.support, episodes.query), family.sample(rng(3), 4, "train"), strict=True):
        np.testing.assert_array_equal(y, part.labels)
        for t, i in np.ndindex(y.shape):
            assert part.classes[t, i] == episodes.classes[t, y[t, i]]
            text = family.content.sentences[part.classes[t, i]][part.numbers[t, i]]
            real = x["weights"][t, i] > 0
            wanted = {zlib.crc32(word.encode()) % family.vocabulary for word in words(text)}
            assert set(x["ids"][t, i][real].tolist()) == wanted
            np.testing.assert_allclose(np.linalg.norm(x["weights"][t, i]), 1, rtol=1e-6)


def test_no_bag_of_words_is_in_support_and_query_or_in_two_intents(tmp_path):
    data = data_of()
    data["train"] += [["Say a1, LOUD: number0!", "a1"], ["the same everywhere", "a2"]]
    data["test"] += [["everywhere the same", "c1"], ["another of a1", "a1"]]
    content = load(str(written(tmp_path, data)))
    bags = [tuple(sorted(words(text))) for sentences in content.sentences for text in sentences]
    assert len(bags) == len(set(bags)) == 6 * 6 + 1  # the same twice counts once, what two share does not
    assert not any("everywhere" in bag for bag in bags)


def test_where_validation_has_too_few_intents_its_tasks_have_all(tmp_path):
    domains = {"a": ["a1", "a2", "a3"], "b": ["b1", "b2"], "c": ["c1", "c2", "c3"]}
    family = tasks_of(written(tmp_path, data_of(domains), domains), ways=3)
    for split, ways in zip(SPLITS, (3, 2, 3), strict=True):
        (_, ys), _ = family.sample(rng(), 5, split)
        assert all(set(y) == set(range(ways)) for y in ys.tolist())


def test_to_pretrain_each_training_intent_keeps_its_label(family, options):
    family = intents.make(intents.Settings(**options | dict(labels="class")))
    episodes = family.episodes(rng(), 30, "train")
    train = family.splits["train"]
    assert family.outputs == len(train)
    np.testing.assert_array_equal(np.array(train)[episodes.support.labels], episodes.support.classes)
    (_, ys), _ = family.sample(rng(), 5, "test")
    assert set(ys.flat) == set(range(family.ways))


# ── tf-idf ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_weights_are_tf_idf_of_training_sentences(family):
    training = [text for c in family.splits["train"] for text in family.content.sentences[c]]
    vocabulary = sorted({word for text in training for word in words(text)})
    have = {word: sum(word in words(text) for text in training) for word in vocabulary}
    text = f"{vocabulary[0]} {vocabulary[1]} {vocabulary[0]} neverseen"
    idf = [np.log((1 + len(training)) / (1 + n)) + 1 for n in (have[vocabulary[0]], have[vocabulary[1]], 0)]
    wanted = np.array([2, 1, 1]) * idf
    ids, weights = family.bags([text])
    np.testing.assert_allclose(weights[0, :3], wanted / np.linalg.norm(wanted), rtol=1e-12)
    assert not weights[0, 3:].any() and not ids[0, 3:].any()
    assert idf[2] > max(idf[:2])


def weights_with(folder: Path, intent: str) -> np.ndarray:
    """The weights of a sentence, where one intent has further sentences with its words."""
    folder.mkdir()
    data = data_of()
    data["train"] += [[f"loud loud number{i} again", intent] for i in range(5)]
    return tasks_of(written(folder, data)).bags(["say something loud number1"])[1]


def test_only_training_sentences_decide_the_weights(tmp_path):
    plain = tasks_of(written(tmp_path)).bags(["say something loud number1"])[1]
    np.testing.assert_array_equal(weights_with(tmp_path / "test", "c1"), plain)
    np.testing.assert_array_equal(weights_with(tmp_path / "val", "b1"), plain)
    assert (weights_with(tmp_path / "train", "a1") != plain).any()


def test_a_planted_leak_is_seen(tmp_path, monkeypatch):
    def leaky(family):
        from collections import Counter

        sentences = [text for texts in family.content.sentences for text in texts]
        return len(sentences), Counter(word for text in sentences for word in set(words(text)))

    monkeypatch.setattr(IntentTasks, "counts", property(leaky))
    with pytest.raises(AssertionError):
        test_only_training_sentences_decide_the_weights(tmp_path)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("What's my PIN?", ["what's", "my", "pin"]),
        ("Qu’est-ce que c’est", ["qu’est", "ce", "que", "c’est"]),
        ("Überweise 5 €", ["überweise", "5"]),
        ("今日の天気は", ["今日の天気は"]),
        ("(-: !", []),
    ],
)
def test_words_are_of_any_script(text, wanted):
    assert words(text) == wanted


def test_of_a_long_sentence_the_first_words_count(family):
    ids, weights = family.bags([" ".join(f"word{i}" for i in range(100))])
    assert (weights > 0).all() and ids.shape == (1, *family.input_shape)


# ── the baseline ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_baseline_is_the_largest_cosine(family):
    ways = family.ways
    (xs, ys), (xq, yq) = tree_map(lambda x: x[0], family.sample(rng(), 1, "test"))

    def dense(x):
        rows = np.zeros((len(x["ids"]), family.vocabulary))
        for row, ids, weights in zip(rows, x["ids"], x["weights"], strict=True):
            for i, w in zip(ids, weights, strict=True):
                row[i] += w
        return rows

    means = np.stack([dense(xs)[ys == k].mean(0) for k in range(ways)])
    cosine = dense(xq) @ means.T / np.linalg.norm(means, axis=1)
    np.testing.assert_allclose(cosines(xs, ys, xq, ways), cosine, rtol=1e-6, atol=1e-9)
    assert family.loss(cosine, yq)[1] >= 0
    assert not cosines(xs, np.zeros_like(ys), xq, ways)[:, 1:].any()


def test_protomaml_without_steps_nearly_is_the_baseline(family, options):
    """An embedding begins with the inner products of bags of words."""
    learner = tm.runs.learner.Learner(Config.default(
        "intents", algorithm="protomaml", **options | dict(shots=1), embed=4096))  # fmt: skip
    meta, *_ = learner.init(rng())
    same = []
    for t in range(10):
        support, (xq, _) = tree_map(lambda x: x[0], learner.sample(rng(t), 1, "test"))
        theta = next(learner.algorithm.adapt(learner.loss, meta, support, learner.settings))
        wanted = cosines(*support, xq, learner.family.ways)
        surely = np.ptp(np.sort(wanted, 1)[:, -2:], 1) > 0.1
        same += (learner.predict(theta, xq).argmax(1) == wanted.argmax(1))[surely].tolist()
    assert all(same) and len(same) > 10


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


def without(key: str) -> dict:
    return {name: rows for name, rows in data_of().items() if name != key}


def with_row(row) -> dict:
    data = data_of()
    data["val"].insert(1, row)
    return data


WRONG = {
    "no file": (None, DOMAINS, FileNotFoundError, r"no file data_full.json; found domains.json; .tinymaml data"),
    "no domains": (data_of(), None, FileNotFoundError, r"no file domains.json; found data_full.json;"),
    "no JSON": (b'{"train": [', DOMAINS, ValueError, r"data_full.json is no JSON: Expecting value"),
    "no UTF-8": (b'{"train": ["\xff', DOMAINS, ValueError, r"data_full.json is no JSON: 'utf-8' codec"),
    "no JSON of domains": (data_of(), b"travel, work", ValueError, r"domains.json is no JSON: Expecting value"),
    "deep JSON": (b"[" * 200000, DOMAINS, ValueError, r"data_full.json is no JSON: "),
    "a list": ([], DOMAINS, ValueError, r"wanted an object with the lists train, val, test; seen list"),
    "nothing": ({}, DOMAINS, ValueError, r"wanted an object with the lists train, val, test; seen nothing"),
    "a missing part": (without("val"), DOMAINS, ValueError, r"lists train, val, test; seen train, test, oos_test"),
    "a part that is no list": (data_of() | {"val": {}}, DOMAINS, ValueError, r"lists train, val, test; seen train"),
    "no pair": (with_row(["x"]), DOMAINS, ValueError, r"val\[1\] is \['x'\], wanted \[sentence, intent\]"),
    "a number": (with_row([5, "a1"]), DOMAINS, ValueError, r"val\[1\] is \[5, 'a1'\], wanted \[sentence, intent\]"),
    "null": (with_row(["so", None]), DOMAINS, ValueError, r"val\[1\] is \['so', None\], wanted"),
    "an empty sentence": (with_row(["", "a1"]), DOMAINS, ValueError, r"val\[1\] has the sentence .., which has no w"),
    "no words": (with_row(["?!", "a1"]), DOMAINS, ValueError, r"val\[1\] has the sentence '\?!', which has no words"),
    "an unknown intent": (with_row(["so", "z9"]), DOMAINS, ValueError, r"intent 'z9', which has no domain in "),
    "domains without lists": (data_of(), {"a": "a1"}, ValueError, r"domains.json: wanted an object with a list of int"),
    "domains that are a list": (data_of(), ["a"], ValueError, r"domains.json: wanted an object with a list of intents"),
    "two domains": (data_of(), DOMAINS | {"d": ["a1"]}, ValueError, r"the intent 'a1' is of the domains a and d"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_bad_file_is_named_in_one_error(what, tmp_path):
    data, domains, error, message = WRONG[what]
    for name, content in zip(FILES, (data, domains), strict=True):
        if content is not None:
            text = content if isinstance(content, bytes) else json.dumps(content).encode()
            (tmp_path / name).write_bytes(text)
    with pytest.raises(error, match=message) as caught:
        tasks_of(tmp_path).sample(rng(), 1, "train")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(test_domains=("travel",)), "test_domains has 'travel'; .* has a, b, c"),
        (dict(val_domains=("c",)), "the domain 'c' is in val_domains and in test_domains"),
        (dict(ways=3), "ways=3; split 'train' has 2 classes"),
        (dict(shots=5), "shots=5 . queries=2 is more than the 6 examples of the intent 'a1'"),
        (dict(test_domains=("a", "c")), "split 'train' has 0 classes"),
    ],
)
def test_too_few_of_anything_is_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        tasks_of(written(tmp_path), **options).sample(rng(), 1, "train")


def test_the_command_says_in_one_line_what_is_wrong(tmp_path, capsys):
    assert main(["train", "intents", "--out", str(tmp_path / "run")]) == 1
    assert "intents needs its sentences: --data PATH" in capsys.readouterr().err
    assert main(["train", "intents", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run")]) == 1
    assert f"no data at {tmp_path / 'none'}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_names_are_of_any_script(tmp_path):
    domains = {"пути": ["поезд", "самолёт"], "仕事": ["会議", "給料"], "b": ["b1", "b2"]}
    folder = tmp_path / "ordner für dünne Sätze"
    folder.mkdir()
    family = tasks_of(written(folder, data_of(domains), domains), test_domains=("仕事",))
    assert {family.content.intents[c] for c in family.splits["test"]} == {"会議", "給料"}
    assert family.sample(rng(), 2, "test")[0][1].shape == (2, 2)


@pytest.mark.parametrize("form", ["folder", "file", "zip"])
def test_the_folder_the_file_or_an_archive(form, tmp_path):
    import zipfile

    place = written(tmp_path)
    if form == "file":
        place = tmp_path / "data_full.json"
    if form == "zip":
        place = tmp_path / "clinc.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for name in FILES:
                archive.write(tmp_path / name, f"oos-eval/data/{name}")
    assert load(str(place)).intents == ("a1", "a2", "b1", "b2", "c1", "c2")


# ── a run ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def run(small_data, tmp_path_factory):
    pytest.importorskip("safetensors")
    out = tmp_path_factory.mktemp("run") / "run"
    config = Config.default("intents", algorithm="protomaml", **small_data("intents"), embed=16, iterations=2, tasks=2,
                            save_every=2, validate_every=2, validation_tasks=2, compile=False)  # fmt: skip
    loop.train(config, out, progress=False)
    return out


def test_baselines_are_measured_beside_it(run):
    result = evaluate(run, tasks=4, steps=1)
    assert [row["label"] for row in result["baselines"]] == ["tf-idf centroids"]


def test_sentences_in_files_are_adapted_to(run, tmp_path, capsys):
    family = intents.make(Config.from_json(json.loads((run / "config.json").read_text())["config"]).family.settings)
    chosen = family.splits["test"][:2]
    for c in chosen:
        folder = tmp_path / "support" / family.content.intents[c]
        folder.mkdir(parents=True)
        (folder / "one.txt").write_text(family.content.sentences[c][0], encoding="utf-8")
    asked = tmp_path / "query"
    asked.mkdir()
    for c in chosen:
        (asked / f"{family.content.intents[c]}.txt").write_text(family.content.sentences[c][0], encoding="utf-8")
    assert main(["adapt", str(run), "--support", str(tmp_path / "support"), "--query", str(asked)]) == 0
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(rows) == 2 and all(name == f"{prediction}.txt" for name, prediction in rows)
    (asked / "bad.txt").write_bytes(b"\xff\xfe")
    assert main(["adapt", str(run), "--support", str(tmp_path / "support"), "--query", str(asked)]) == 1
    assert "bad.txt is no text in UTF-8" in capsys.readouterr().err
    (asked / "bad.txt").write_text(" ?")
    assert main(["adapt", str(run), "--support", str(tmp_path / "support"), "--query", str(asked)]) == 1
    assert "bad.txt has no words" in capsys.readouterr().err


def test_arrays_in_npz_are_adapted_to(run, tmp_path, capsys):
    model = tm.load(run)
    (xs, ys), (xq, _) = tree_map(lambda x: x[0], model.learner.sample(rng(), 1, "test"))
    parts = {f"x.{name}": array for name, array in xs.items()}
    np.savez(tmp_path / "support.npz", **parts, y=ys)
    np.savez(tmp_path / "query.npz", **{f"x.{name}": array for name, array in xq.items()})
    np.savez(tmp_path / "bad.npz", **{"x.ids": xq["ids"]})
    command = ["adapt", str(run), "--support", str(tmp_path / "support.npz"), "--query"]
    assert main([*command, str(tmp_path / "query.npz")]) == 0
    seen = [int(line.split(",")[1]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert seen == model.adapt(xs, ys).predict(xq).argmax(1).tolist()
    assert main([*command, str(tmp_path / "bad.npz")]) == 1
    assert "bad.npz: wanted x['ids'], x['weights'], x['features']; seen x['ids']" in capsys.readouterr().err


def test_its_picture_shows_sentences_and_what_is_predicted(run, tmp_path):
    pytest.importorskip("matplotlib")
    learned = loop.restore(run)
    ((name, figure),) = intents.pictures(learned)
    figure.savefig(tmp_path / "picture.png", dpi=20)
    shown = [text.get_text() for ax in figure.axes for text in ax.texts]
    content, episodes = learned.learner.family.content, learned.learner.family.episodes
    drawn = episodes(loop.generator(learned.config, loop.TEST, 0), 1, "test")
    first = content.sentences[drawn.support.classes[0, 0]][drawn.support.numbers[0, 0]]
    assert name == "sentences" and first in shown
    assert {content.intents[c].replace("_", " ") for c in drawn.classes[0]} <= set(shown)


# ── the real data ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def clinc(data_dir) -> str:
    if not (data_dir / "clinc150").is_dir():
        pytest.skip("no CLINC150")
    return str(data_dir / "clinc150")


def test_clinc150_is_whole(clinc):
    content = load(clinc)
    assert len(content.intents) == 150 and len(set(content.domains)) == 10
    sizes = [len(sentences) for sentences in content.sentences]
    assert max(sizes) == 150 and min(sizes) > 130 and sum(sizes) > 22000
    assert max(len(set(words(text))) for texts in content.sentences for text in texts) <= intents.LENGTH
    family = IntentTasks(clinc)
    assert [len(family.splits[split]) for split in SPLITS] == [90, 15, 45]


@pytest.mark.slow
@pytest.mark.parametrize("ways, shots, wanted", [(5, 1, 77.3), (5, 5, 93.7)])
def test_the_baseline_is_as_it_was_measured_elsewhere(clinc, ways, shots, wanted):
    family = IntentTasks(clinc, ways, shots)
    (xs, ys), (xq, yq) = family.sample(rng(), 300, "test")
    right = [cosines(*tree_map(lambda x, t=t: x[t], (xs, ys, xq)), ways).argmax(1) == yq[t] for t in range(300)]
    assert 100 * np.mean(right) == pytest.approx(wanted, abs=2)


assert PARTS == SPLITS
