"""Ratings are read as they lie, tasks follow time, training knows no test user, and baselines are formulas."""

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tinymaml.families import FAMILIES, ratings
from tinymaml.families.ratings import FILM, FIRST, GENRES, OWN, PRIOR, RatingTasks, load
from tinymaml.nest import tree_leaves, tree_map

pytestmark = pytest.mark.usefixtures("quick_code")

USERS, FILMS = 30, 15
MOVIES = "movieId,title,genres"
RATINGS = "userId,movieId,rating,timestamp"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def films() -> list[str]:
    """The lines of movies.csv; the last film has no genre, and has no rating."""
    kinds = ("Action", "Comedy|Drama", "Drama", "(no genres listed)")
    named = [f'{10 * i},"Film, the {i}th (1999)",{kinds[i % 3]}' for i in range(FILMS - 1)]
    return [*named, f"{10 * (FILMS - 1)},Nobody’s (2000),{kinds[3]}"]


def rated() -> list[tuple[int, int, float, int]]:
    """(user, film, rating, time) of all users: each rates 8 to 13 films, in an order of their own."""
    draw, rows = rng(), []
    for user in range(1, USERS + 1):
        order = draw.permutation(FILMS - 1)[: 8 + user % 6]
        taste = draw.normal()
        for time, film in enumerate(order):
            value = np.clip(np.round(2 * (3.5 + taste + (film % 3 - 1) + draw.normal())) / 2, 0.5, 5)
            rows.append((user, 10 * int(film), float(value), 1000 + 10 * time))
    return rows


def written(folder: Path, rows=None, movies=None, packed: str = "") -> str:
    """A data set in the official layout, plain, or `packed` as "gz" or "zip"; its path."""
    rows, movies = rated() if rows is None else rows, films() if movies is None else movies
    lines = [row if isinstance(row, str) else ",".join(map(str, row)) for row in rows]
    texts = {"movies.csv": "\n".join([MOVIES, *movies, ""]), "ratings.csv": "\n".join([RATINGS, *lines, ""])}
    folder.mkdir(exist_ok=True)
    if packed == "zip":
        with zipfile.ZipFile(folder / "ml-latest-small.zip", "w") as archive:
            for name, text in texts.items():
                archive.writestr(f"ml-latest-small/{name}", text)
        return str(folder / "ml-latest-small.zip")
    for name, text in texts.items():
        if packed == "gz" and name == "ratings.csv":
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / name).write_text(text, encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return written(tmp_path_factory.mktemp("ratings"))


@pytest.fixture(params=["rating", "like"])
def family(data, request) -> RatingTasks:
    return RatingTasks(data, shots=4, queries=3, target=request.param, vocabulary=64, dtype=np.float64)


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("packed", ["", "gz", "zip"])
def test_a_folder_and_an_archive_are_read_alike(tmp_path, packed):
    content = load(written(tmp_path / "data", packed=packed))
    assert content.titles[3] == "Film, the 3th (1999)" and content.titles[-1] == "Nobody’s (2000)"
    assert content.genres[:4] == ((0,), (1, 2), (2,), (0,)) and content.genres[-1] == ()
    assert content.names == tuple(map(str, range(1, USERS + 1)))
    of_first = [(film // 10, value) for user, film, value, _ in rated() if user == 1]
    assert list(zip(*content.users[0], strict=True)) == of_first


def test_ratings_are_in_the_order_of_time_and_ties_in_that_of_the_film(tmp_path):
    rows = rated()
    shuffled = [rows[i] for i in rng(1).permutation(len(rows))]
    ties = [(*row[:3], 7) if row[0] == 2 else row for row in shuffled]
    content = load(written(tmp_path / "data", ties))
    place = content.names.index("1")
    assert content.users[place][0].tolist() == [film // 10 for user, film, *_ in rows if user == 1]
    assert content.users[content.names.index("2")][0].tolist() == sorted(film // 10 for u, film, *_ in rows if u == 2)


BAD = [  # which file, its line (0: the head), what stands there, and what the error says of it
    (
        "ratings.csv",
        0,
        "userId,movieId,timestamp",
        "ratings.csv, line 1: no column rating; found userId, movieId, time",
    ),
    ("ratings.csv", 3, "1,20,5.5,1000", "ratings.csv, line 4: the rating is 5.5, .*wanted ratings of 0.5 … 5"),
    ("ratings.csv", 3, "1,20,0,1000", "ratings.csv, line 4: the rating is 0, .*wanted ratings of 0.5 … 5"),
    ("ratings.csv", 3, "1,20,nan,1000", "ratings.csv, line 4: the rating is nan, .*wanted ratings of 0.5 … 5"),
    ("ratings.csv", 3, "1,20,good,1000", "ratings.csv, line 4: rating 'good' and timestamp '1000', wanted numbers"),
    ("ratings.csv", 3, "1,20,3,", "ratings.csv, line 4: rating '3' and timestamp '', wanted numbers"),
    ("ratings.csv", 3, "1,20,3,inf", "ratings.csv, line 4: the rating is 3, and the time stamp inf"),
    ("ratings.csv", 3, "1,20,3", "ratings.csv, line 4: 3 fields, wanted 4"),
    ("ratings.csv", 3, "1,99,3,1000", "ratings.csv, line 4: the film 99 is not in movies.csv"),
    ("ratings.csv", 3, None, "ratings.csv, line 4: the user 1 rates the film [0-9]+ twice"),
    ("movies.csv", 0, "movieId,name,genres", "movies.csv, line 1: no column title; found movieId, name, genres"),
    ("movies.csv", 2, "0,Film (1999),Drama", "movies.csv, line 3: the film 0 is there twice"),
    ("movies.csv", 1, "0,Film", "movies.csv, line 2: 2 fields, wanted 3"),
    ("movies.csv", 1, f"0,Film,{'|'.join(map(str, range(40)))}", "movies.csv, line 2: the genre .* more than the 32"),
]


@pytest.mark.parametrize("name, line, text, message", BAD)
def test_a_bad_line_is_named(tmp_path, name, line, text, message):
    written(tmp_path)
    lines = (tmp_path / name).read_text(encoding="utf-8").splitlines()
    lines[line] = lines[line - 1] if text is None else text
    (tmp_path / name).write_text("\n".join([*lines, ""]), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load(str(tmp_path))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    where = Path(written(tmp_path / "cut", packed="gz")) / "ratings.csv.gz"
    where.write_bytes(where.read_bytes()[:-20])
    with pytest.raises(ValueError, match="ratings.csv.gz is not a complete gzip file"):
        load(str(where.parent))
    folder = Path(written(tmp_path / "latin"))
    (folder / "movies.csv").write_bytes(f"{MOVIES}\n0,Amélie,Drama\n".encode("latin-1"))
    with pytest.raises(ValueError, match="movies.csv is no text in UTF-8"):
        load(str(folder))
    (folder / "movies.csv").write_text("")
    with pytest.raises(ValueError, match="movies.csv, line 1: no column movieId; found nothing"):
        load(str(folder))
    (folder / "movies.csv").unlink()
    with pytest.raises(FileNotFoundError, match="no file movies.csv; found ratings.csv; .*tinymaml data movielens"):
        load(str(folder))


def test_too_few_users_and_too_few_ratings_are_named(tmp_path):
    with pytest.raises(ValueError, match="has 9 users, wanted at least 10"):
        load(written(tmp_path / "few", [row for row in rated() if row[0] < 10]))
    short = [row for row in rated() if row[0] != 5 or row[3] < 1030]
    family = RatingTasks(written(tmp_path / "short", short), queries=3)
    with pytest.raises(ValueError, match="the user 5 has 3 ratings; wanted more than queries=3 of each"):
        family.sample(rng(), 1, "train")


def test_the_data_are_asked_for():
    with pytest.raises(ValueError, match="ratings needs its data: --data .*tinymaml data movielens"):
        FAMILIES["ratings"].make(ratings.Settings())


# ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def stars(family: RatingTasks, user: int, rows: slice) -> np.ndarray:
    """The targets that these ratings of a test user should have."""
    films, values = family.content.users[user]
    if family.target == "like":
        return (values[rows] >= 4).astype(float)
    known = family.films
    return values[rows] - known.mean - known.total[films[rows]] / (FILM + known.counts[films[rows]])


def test_every_user_is_in_one_split(family):
    splits = family.splits
    assert sorted(np.concatenate([*splits.values()])) == list(range(USERS))
    assert {split: len(users) for split, users in splits.items()} == {"train": 18, "val": 6, "test": 6}


def of(tasks, t: int):
    """Task t of tasks that are stacked."""
    return tree_map(lambda x: x[t], tasks)


@pytest.mark.parametrize("shots", [0, 1, 4])
def test_a_test_task_is_the_beginning_of_a_users_history(data, monkeypatch, shots):
    monkeypatch.setattr(ratings, "FIRST", 5)
    family = RatingTasks(data, shots, 3, dtype=np.float64)
    (xs, ys), (xq, yq) = family.every("test")
    assert ys["mask"].shape == (6, max(shots, 1)) and (yq["mask"] == 1).all()
    for t, user in enumerate(family.splits["test"]):
        assert ys["mask"][t].tolist() == [1] * shots + [0] * (max(shots, 1) - shots)
        np.testing.assert_allclose(ys["y"][t, :shots, 0], stars(family, user, slice(shots)))
        films = family.content.users[user][0]
        ask = min(5, len(films) - 3)  # after the first 5, whatever `shots` is
        np.testing.assert_allclose(yq["y"][t, :, 0], stars(family, user, slice(ask, ask + 3)))
        tree_map(np.testing.assert_array_equal, of(xq, t), family.examples(films[ask : ask + 3]))
    drawn = family.sample(rng(), 5, "test")
    tasks = [[x.tobytes() for x in tree_leaves(of(family.every("test"), t))] for t in range(6)]
    assert all([x.tobytes() for x in tree_leaves(of(drawn, t))] in tasks for t in range(5))


def test_more_shots_than_a_user_has_ratings_are_padded(data):
    family = RatingTasks(data, 100, 3)
    (_, ys), (_, yq) = family.every("test")
    counts = [len(family.content.users[user][0]) for user in family.splits["test"]]
    assert ys["mask"].shape == (6, 100) and ys["mask"].sum(1).tolist() == [n - 3 for n in counts]
    assert yq["mask"].sum(1).tolist() == [3] * 6


def test_a_training_task_is_any_part_of_a_history_with_any_number_of_ratings(family, monkeypatch):
    monkeypatch.setattr(ratings, "FIRST", 2)
    (_, ys), (xq, yq) = family.sample(rng(), 600, "train")
    counts, share = np.unique(ys["mask"].sum(1), return_counts=True)
    assert counts.tolist() == [0, 1, 2, 3, 4] and share.min() > 60
    assert (np.diff(ys["mask"], axis=1) <= 0).all() and (ys["y"][ys["mask"] == 0] == 0).all()
    assert (yq["mask"] == 1).all() and {x.shape[:2] for x in tree_leaves(xq)} == {(600, 3)}
    user = int(family.splits["train"][0])
    films, values = family.content.users[user]
    support, query = family.task(user, 2, 1, own=True)
    rows = [1, 2, 5, 6, 7]  # 2 of the 4 before the query are known
    known = np.concatenate([support[1]["y"][:2], query[1]["y"]])[:, 0]
    # without the user's own rating: Σ over others (r − mean − b_user) / (5 + how many there are)
    expected = []
    for film in films[rows]:
        left = [family.measured(value) - family.films.mean - family.films.user[other]
                for other in family.splits["train"] if other != user
                for f, value in zip(*family.content.users[other], strict=True) if f == film]  # fmt: skip
        expected.append(sum(left) / (FILM + len(left)))
    if family.target == "like":
        np.testing.assert_array_equal(known, values[rows] >= 4)
    else:
        np.testing.assert_allclose(known, values[rows] - family.films.mean - expected, atol=1e-12)
    biases = np.concatenate([support[0]["features"][:2], query[0]["features"]])[:, 0]
    np.testing.assert_allclose(biases, expected, atol=1e-12)


def test_a_film_is_its_row_its_genres_and_what_training_users_say_of_it(family):
    x = family.examples(np.arange(FILMS))
    row, count = family.films.row, family.films.counts
    assert sorted(row[:-1]) == list(range(GENRES + 1, GENRES + FILMS)) and row[-1] == 0  # the last one has no rating
    assert (count[np.argsort(row[:-1])] == np.sort(count[:-1])[::-1]).all()
    assert x["ids"][1, :4].tolist() == [row[1], 2, 3, 0] and x["ids"].max() < family.vocabulary
    np.testing.assert_allclose(x["weights"][1, :4], [OWN, 0.5**0.5, 0.5**0.5, 0])
    assert x["weights"][-1].tolist() == [OWN] + [0] * 11
    bias = family.films.total / (FILM + count)
    np.testing.assert_allclose(x["features"], np.stack([bias, np.log1p(count) / 4, row > 0], 1))
    few = RatingTasks(family.path, 4, 3, vocabulary=GENRES + 1 + 5).films
    assert (few.row > 0).sum() == 5 and count[few.row > 0].min() >= count[few.row == 0].max()


def test_biases_are_a_solution_of_their_equations(family):
    f, training = family.films, family.splits["train"]
    rows = [(u, film, family.measured(r)) for u in training for film, r in zip(*family.content.users[u], strict=True)]
    user, film, value = map(np.array, zip(*rows, strict=True))
    assert f.mean == pytest.approx(value.mean())
    bias = f.total / (FILM + f.counts)
    for u in training:
        mine = user == u
        left = value[mine] - f.mean - bias[film[mine]]
        assert f.user[u] == pytest.approx(left.sum() / (FILM + mine.sum()), abs=1e-6)
    for i in range(FILMS):
        mine = film == i
        assert f.total[i] == pytest.approx((value[mine] - f.mean - f.user[user[mine]]).sum(), abs=1e-9)
    assert not f.user[np.concatenate([family.splits["val"], family.splits["test"]])].any()


# ── what may not be known ───────────────────────────────────────────────────────────────────────────────────────────


def check_no_leak(kind, folder: Path, split: str) -> None:
    """Raises: AssertionError: what is learned from training users, or their tasks, depends on the users of `split`."""
    honest = kind(written(folder / "honest"), 4, 3, vocabulary=64)
    others = {int(honest.content.names[user]) for user in honest.splits[split]}
    draw = rng(5)
    rows = [(u, film, float(draw.integers(1, 11) / 2) if u in others else value, t) for u, film, value, t in rated()]
    changed = kind(written(folder / "changed", rows), 4, 3, vocabulary=64)
    tree_map(np.testing.assert_array_equal, tuple(honest.films), tuple(changed.films))
    drawn = [family.sample(rng(), 50, "train") for family in (honest, changed)]
    tree_map(np.testing.assert_array_equal, *drawn)
    if split == "test":
        assert honest.tuned("metric") == changed.tuned("metric")
    with pytest.raises(AssertionError):  # what was changed is what the split has
        tree_map(np.testing.assert_array_equal, honest.every(split), changed.every(split))


@pytest.mark.parametrize("split", ["val", "test"])
def test_what_training_knows_does_not_depend_on_other_users(tmp_path, split):
    check_no_leak(RatingTasks, tmp_path, split)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_leak_would_be_seen(tmp_path, split):
    class Leaky(RatingTasks):
        """The biases of films are those of all users."""

        @property
        def films(self):
            if "everyone" not in self.__dict__:
                honest, self.__dict__["splits"] = self.splits, {"train": np.arange(USERS)}
                self.everyone = super().__dict__.get("films") or RatingTasks.films.func(self)
                self.__dict__["splits"] = honest
            return self.everyone

    with pytest.raises(AssertionError, match="not equal"):
        check_no_leak(Leaky, tmp_path, split)


def test_no_rating_is_in_support_and_query(family):
    for split in family.splits:
        (xs, ys), (xq, _) = family.every(split)
        for t in range(len(ys["mask"])):
            known = set(xs["ids"][t, ys["mask"][t] == 1, 0])
            assert not known & set(xq["ids"][t, :, 0]) - {0}


# ── loss and baselines ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_loss_is_a_mean_over_ratings_that_counts_few_less(family):
    p, y, mask = rng().normal(size=(5, 1)), rng(1).normal(size=(5, 1)), np.array([1.0, 1, 1, 0, 0])
    if family.target == "like":
        y = (y > 0).astype(float)
    loss, metric = family.loss(p, {"y": y, "mask": mask})
    p, y = p[:3, 0], y[:3, 0]
    if family.target == "rating":
        wanted = np.mean((p - y) ** 2), np.mean(np.abs(p - y))
    else:
        q = 1 / (1 + np.exp(-p))
        wanted = -np.mean(y * np.log(q) + (1 - y) * np.log(1 - q)), np.mean((q > 0.5) == y)
    assert loss == pytest.approx(3 / (3 + PRIOR) * wanted[0]) and metric == pytest.approx(wanted[1])
    assert family.loss(np.zeros((5, 1)), {"y": np.zeros((5, 1)), "mask": 0 * mask})[0] == 0


def test_baselines_are_the_films_mean_and_the_shrunk_bias_of_the_user(family):
    baselines, of_stars = family.baselines(), family.target == "rating"
    constants = {"mean of the film": (1e12, 0), ratings.BIASES: family.tuned("loss" if of_stars else "metric")}
    constants |= {"biases, for the absolute error": family.tuned("metric")} if of_stars else {}
    assert list(baselines) == list(constants)
    assert all(s in ratings.SHRINK and t in ratings.TYPICAL for s, t in list(constants.values())[1:])
    for user in family.splits["test"]:
        for known in (0, 1, 4):
            (xs, ys), (xq, yq) = family.task(user, known)
            films, values = family.content.users[user]
            ask = min(FIRST, len(films) - 3)
            expected = lambda part: family.films.mean + (family.films.total / (FILM + family.films.counts))[part]  # noqa: E731
            left = family.measured(values[:known]) - expected(films[:known])
            item = expected(films[ask : ask + 3])
            for label, (shrink, typical) in constants.items():
                bias = (shrink * typical + left.sum()) / (shrink + known)
                seen = baselines[label](xs, ys, xq)
                assert seen.shape == (3, 1)
                if family.target == "like":
                    np.testing.assert_allclose(seen[:, 0], item + bias - 0.5, atol=1e-9)
                else:
                    error = np.abs(item + bias - values[ask : ask + 3]).mean()
                    assert family.loss(seen, yq)[1] == pytest.approx(error)


def test_predictions_are_shown_as_stars_or_as_probabilities(family):
    user = int(family.splits["test"][0])
    films, values = family.content.users[user]
    if family.target == "rating":
        np.testing.assert_allclose(family.shown(family.targets(films, values, user), films), values)
    else:
        np.testing.assert_allclose(family.shown(np.log([[3.0], [1 / 3]]), films[:2]), [0.75, 0.25])


# ── trained ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=[
    pytest.param(("rating", False), id="rating"), pytest.param(("like", False), id="like"),
    pytest.param(("rating", True), id="rating, compiled", marks=pytest.mark.slow),
    pytest.param(("like", True), id="like, compiled", marks=pytest.mark.slow)])  # fmt: skip
def run(request, data, tmp_path_factory):
    for library in ("safetensors", "filelock", "tqdm", "threadpoolctl", "numba"):
        pytest.importorskip(library)
    from tinymaml.runs import loop
    from tinymaml.runs.settings import Config

    target, compiled = request.param
    small = dict(shots=4, queries=3, target=target, vocabulary=64, embed=3, hidden=(4,), inner_lr=0.5)
    outer = dict(tasks=4, iterations=10, save_every=10, validate_every=10, validation_tasks=4, compile=compiled)
    out = tmp_path_factory.mktemp("run") / "run"
    return loop.train(Config.default("ratings", data=data, **small, **outer), out, progress=False).path


def test_no_ratings_move_nothing_and_some_do(run):
    from tinymaml.runs.evaluate import evaluate

    none, some = (evaluate(run, shots=shots, steps=3) for shots in (0, 2))
    assert none["tasks"] == some["tasks"] == 6
    assert len(set(none["mean"])) == 1 and some["mean"][0] == none["mean"][0]
    assert none["metric"] == "accuracy" or len(set(some["mean"])) == 4
    assert [row["label"] for row in none["baselines"]][:2] == ["mean of the film", ratings.BIASES]


def test_a_run_is_used_without_the_data(run, tmp_path, monkeypatch):
    import tinymaml as tm
    from tinymaml.runs.loop import restore
    from tinymaml.runs.predictions import predict as adapt

    family = restore(run).learner.family
    user = int(family.splits["test"][0])
    (xs, ys), (xq, _) = family.task(user, 4)
    monkeypatch.setattr(ratings, "load", lambda path: pytest.fail("the data are read"))
    adapted = tm.load(run).adapt(xs, ys["y"])
    outputs = adapted.predict(xq)
    assert outputs.shape == (3, 1) and np.isfinite(outputs).all()
    parts = {f"x.{name}": part for name, part in xs.items()}
    np.savez(tmp_path / "support.npz", **parts, y=ys["y"])
    np.savez(tmp_path / "query.npz", **{f"x.{name}": part for name, part in xq.items()})
    rows = adapt(run, tmp_path / "support.npz", tmp_path / "query.npz").splitlines()
    assert rows[0] == "example,prediction" and len(rows) == 4
    seen = [float(row.split(",")[1]) for row in rows[1:]]
    wanted = outputs[:, 0] if family.target == "rating" else outputs[:, 0] > 0
    np.testing.assert_allclose(seen, wanted, rtol=1e-5)


def test_pictures_show_what_was_predicted_before_a_rating_arrived(run):
    pytest.importorskip("matplotlib")
    from tinymaml.pictures import arrivals
    from tinymaml.runs.adaptation import path
    from tinymaml.runs.loop import restore

    learned = restore(run)
    family, learner = learned.learner.family, learned.learner
    user = int(family.splits["test"][1])
    films, values = family.content.users[user]
    one = arrivals.arrivals(learned, user, 7)
    assert (
        one.titles == [family.content.titles[film] for film in films[:7]]
        and one.ratings.tolist() == values[:7].tolist()
    )
    x, y = family.examples(films[:7], user), family.targets(films[:7], values[:7], user)
    for k in (1, 6):
        support = tree_map(lambda part: part[:k], x), {"y": y[:k], "mask": np.ones(k, np.float32)}  # noqa: B023
        *_, theta = path(learned, support, learner.steps)
        prediction = learner.predict(theta, tree_map(lambda part: part[k : k + 1], x))  # noqa: B023
        assert one.run[k] == pytest.approx(family.shown(prediction, films[k : k + 1])[0], rel=1e-5)
        if family.target == "rating":
            assert one.errors["run"][k] == pytest.approx(abs(one.run[k] - values[k]), rel=1e-4)
    figures = dict(ratings.pictures(learned))
    assert list(figures) == ["arrivals", "ratings"]
    first = figures["arrivals"].axes[0]
    assert first.get_title() == f"user {family.content.names[family.splits['test'][0]]}"
    by_user = [arrivals.by_user(learned, known) for known in range(5)]
    drawn = [line.get_ydata() for line in figures["ratings"].axes[0].lines[: len(by_user[0])]]
    for label, line in zip(by_user[0], drawn, strict=True):
        np.testing.assert_allclose(line, [learner.metric.scale * values[label].mean() for values in by_user])


def test_numbers_of_ratings_that_are_drawn():
    from tinymaml.pictures.arrivals import numbers

    assert numbers(4) == [0, 1, 2, 3, 4] and numbers(13) == [*range(11), 13]
    assert numbers(100) == [*range(11), *range(20, 101, 10)]


# ── MovieLens ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_movielens_is_as_it_is_described(data_dir):
    folder = data_dir / "movielens"
    if not folder.is_dir():
        pytest.skip("no MovieLens")
    family = RatingTasks(str(folder), dtype=np.float64)
    content = family.content
    assert (len(content.users), sum(len(films) for films, _ in content.users), len(content.titles)) == (
        671,
        100004,
        9066,
    )
    assert {split: len(users) for split, users in family.splits.items()} == {"train": 403, "val": 134, "test": 134}
    (xs, ys), (_, yq) = family.every("test")
    assert ys["mask"].all() and yq["mask"].all() and xs["ids"].max() < family.vocabulary == family.films.row.max() + 1
    assert np.abs(family.films.mean - 3.5) < 0.1
