"""The simulator keeps to geometry, tasks are as described, splits do not leak, and bad files are named."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinymaml as tm
from tinymaml.families import robot, rooms
from tinymaml.families.robot import GAP, MOVES, RobotTasks, SonarTasks
from tinymaml.families.rooms import AXLE, BEAMS, FAR, RADIUS, TICK, Robots, Rooms, drive, moved
from tinymaml.nest import tree_leaves, tree_map
from tinymaml.runs.settings import Config


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def empty_room(width=4.0, height=3.0) -> Rooms:
    """One room without boxes."""
    return Rooms(np.array([[width, height]]), np.zeros((1, 0, 2)), np.zeros((1, 0, 2)))


def one_robot(circumference=1.0, bias=0.0, side=1.0) -> Robots:
    return Robots(*(np.full((1, 1, 1), x) for x in (circumference, bias, side)))


# ── rays ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_beams_are_symmetric_and_even():
    np.testing.assert_allclose(BEAMS, -BEAMS[::-1], atol=1e-15)
    np.testing.assert_allclose(np.diff(BEAMS), np.radians(25))


def test_a_ray_to_one_wall_is_distance_over_cosine(monkeypatch):
    monkeypatch.setattr(rooms, "FAR", 100.0)
    width, height, d = 60.0, 80.0, 1.25
    pose = np.array([[[width - d, height / 2, 0.0]]])  # looking at the right wall, from d
    ranges = empty_room(width, height).ranges(pose)[0, 0]
    ahead = np.abs(BEAMS) < np.radians(80)
    np.testing.assert_allclose(ranges[ahead], d / np.cos(BEAMS[ahead]), rtol=1e-12)


def by_segments(rooms: Rooms, pose: np.ndarray, angle: float) -> float:
    """A ray against each side of each rectangle, by Cramer's rule."""
    rectangles = [(np.zeros(2), rooms.size[0]), *zip(rooms.low[0], rooms.high[0], strict=True)]
    nearest, p, d = FAR, pose[:2], np.array([np.cos(angle), np.sin(angle)])
    for (x0, y0), (x1, y1) in rectangles:
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
        for a, b in zip(corners, corners[1:], strict=False):
            # p + t d = a + s (b − a)
            matrix = np.stack([d, a - b], 1)
            if abs(np.linalg.det(matrix)) > 1e-12:
                t, s = np.linalg.solve(matrix, a - p)
                if t > 0 and 0 <= s <= 1:
                    nearest = min(nearest, t)
    return nearest


@given(st.integers(0, 2**32))
def test_rays_meet_the_sides_of_rectangles(seed):
    drawn = rng(seed)
    rooms = Rooms.drawn(drawn, 1)
    poses = rooms.poses(drawn, 3)
    wanted = [[by_segments(rooms, pose, pose[2] + beam) for beam in BEAMS] for pose in poses[0]]
    np.testing.assert_allclose(rooms.ranges(poses)[0], wanted, rtol=1e-9)


def test_a_ray_along_an_axis_is_no_exception():
    box = Rooms(np.array([[4.0, 3.0]]), np.array([[[2.0, 1.0]]]), np.array([[[3.0, 2.0]]]))
    for heading, wanted in ((0.0, 1.0), (np.pi / 2, 1.5), (np.pi, 1.0), (-np.pi / 2, 1.5)):
        pose = np.array([[[1.0, 1.5, heading - BEAMS[0]]]])  # the first beam looks along the heading
        assert box.ranges(pose)[0, 0, 0] == pytest.approx(wanted)


def test_clearance_is_the_distance_to_the_nearest_wall_or_box():
    box = Rooms(np.array([[4.0, 3.0]]), np.array([[[2.0, 1.0]]]), np.array([[[3.0, 2.0]]]))
    places = np.array([[[1.0, 1.5], [0.3, 1.5], [1.7, 0.6], [2.5, 1.5], [3.2, 1.5]]])
    np.testing.assert_allclose(box.clearance(places), [[1.0, 0.3, 0.5, 0.0, 0.2]], atol=1e-12)


@given(st.integers(0, 2**32), st.floats(0.2, 0.35))
def test_poses_keep_their_clearance_and_fill_the_room(seed, clearance):
    drawn = rng(seed)
    rooms = Rooms.drawn(drawn, 4)
    poses = rooms.poses(drawn, 50, clearance)
    assert poses.shape == (4, 50, 3) and rooms.clearance(poses).min() >= clearance
    assert (poses[..., :2] < rooms.size[:, None]).all() and poses[..., 2].min() >= 0 and poses[..., 2].max() < 2 * np.pi


def test_boxes_stay_in_their_rooms():
    rooms = Rooms.drawn(rng(), 500)
    assert (rooms.low >= 0).all() and (rooms.low < rooms.high).all() and (rooms.high <= rooms.size[:, None]).all()


# ── the drive ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-3, 3), st.floats(0.01, 5))
def test_a_robot_moves_along_an_arc(left, right, heading, seconds):
    x, y, turned = moved(np.array([1.0, 2.0, heading]), np.array([left, right]), seconds)
    speed, rate = (left + right) / 2, (right - left) / AXLE
    assert turned == pytest.approx(heading + rate * seconds)
    if abs(rate) < 1e-3:  # nearly straight: the closed form below divides by the rate
        np.testing.assert_allclose((x - 1, y - 2), speed * seconds * np.array([np.cos(turned), np.sin(turned)]),
                                   atol=2e-2)  # fmt: skip
        return
    radius = speed / rate
    np.testing.assert_allclose(x, 1 + radius * (np.sin(turned) - np.sin(heading)), atol=1e-9)
    np.testing.assert_allclose(y, 2 - radius * (np.cos(turned) - np.cos(heading)), atol=1e-9)


def test_two_halves_of_an_arc_are_the_arc():
    pose, speeds = np.array([0.0, 0.0, 0.3]), np.array([0.4, 0.1])
    np.testing.assert_allclose(moved(moved(pose, speeds, 0.5), speeds, 0.5), moved(pose, speeds, 1.0), atol=1e-12)


def test_a_robot_stops_where_it_touches_a_wall():
    room, start = empty_room(), np.array([[2.0, 1.5, 0.0]])
    ride = drive(room, one_robot(0.5), start, lambda ranges: np.full((1, 1, 2), 0.8), 100)  # 0.4 m/s, straight on
    steps = int(np.ceil((2 - RADIUS) / (0.4 * TICK)))
    assert ride.touched[0] and (ride.poses[0, steps:] == ride.poses[0, steps]).all()
    assert room.clearance(ride.poses)[0, steps - 1] >= RADIUS > room.clearance(ride.poses)[0, steps]
    assert ride.metres[0] == pytest.approx(steps * 0.4 * TICK)
    still = drive(room, one_robot(), start, lambda ranges: np.zeros((1, 1, 2)), 5)
    assert not still.touched[0] and still.metres[0] == 0 and still.poses.shape == (1, 6, 3)


def test_the_expert_touches_no_wall_and_gets_somewhere():
    drawn = rng(3)
    rooms, robots = Rooms.drawn(drawn, 100), Robots.drawn(drawn, 100)
    ride = drive(rooms, robots, rooms.poses(drawn, 1, 0.35)[:, 0], robots.expert, 300)
    assert ride.touched.mean() <= 0.01 and np.median(ride.metres) > 8


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_the_expert_keeps_the_wall_at_its_side(side):
    room, robots = empty_room(20.0, 4.0), one_robot(side=side)
    y = 0.9 if side > 0 else 3.1  # the wall at its right is y = 0, at its left y = 4
    ride = drive(room, robots, np.array([[1.0, y, 0.0]]), robots.expert, 300)
    assert ride.poses[0, -1, 1] == pytest.approx(rooms.DISTANCE if side > 0 else 4 - rooms.DISTANCE, abs=0.05)
    assert ride.poses[0, -1, 0] > 8


def test_a_mirrored_robot_does_the_mirrored():
    ranges = rng().uniform(0, FAR, (1, 20, 10))
    right, left = one_robot(0.5), one_robot(0.5, side=-1.0)
    np.testing.assert_array_equal(left.expert(ranges[..., ::-1])[..., ::-1], right.expert(ranges))
    np.testing.assert_allclose(one_robot(0.25).expert(ranges), 2 * right.expert(ranges))


# ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tasks_are_stacked_support_and_query(dtype):
    (xs, ys), (xq, yq) = RobotTasks(4, 6, dtype).sample(rng(), 3, "train")
    assert xs.shape == (3, 4, 10) and ys.shape == (3, 4, 2) and xq.shape == (3, 6, 10) and yq.shape == (3, 6, 2)
    assert {x.dtype for x in (xs, ys, xq, yq)} == {np.dtype(dtype)}


def test_the_generator_alone_decides():
    family = RobotTasks()
    first, again, other = (family.sample(rng(seed), 3, "train") for seed in (1, 1, 2))
    tree_map(np.testing.assert_array_equal, first, again)
    assert all((a != b).any() for a, b in zip(tree_leaves(first), tree_leaves(other), strict=True))


def test_unknowns_fill_their_ranges():
    robots = Robots.drawn(rng(), 4000)
    for x, (low, high) in ((robots.circumference, rooms.CIRCUMFERENCE), (robots.bias, rooms.BIAS)):
        share, _ = np.histogram(x, 8, (low, high))
        assert share.sum() == 4000 and np.abs(share / 4000 - 1 / 8).max() < 0.03
    assert set(robots.side.flat) == {-1, 1} and abs(robots.side.mean()) < 0.06


def test_no_pose_is_in_support_and_query():
    (xs, _), (xq, _) = RobotTasks(20, 20, np.float64).sample(rng(), 10)
    assert len(np.unique(np.concatenate([xs, xq], 1).reshape(-1, 10), axis=0)) == 400


@pytest.mark.parametrize("options", [dict(shots=0), dict(queries=1.5)])
def test_a_count_is_a_whole_number_of_at_least_1(options):
    for make in (RobotTasks, lambda **o: SonarTasks("nowhere", **o)):
        with pytest.raises(ValueError, match="wanted an integer of at least 1"):
            make(**options)


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="unknown split 'tset'"):
        RobotTasks().sample(rng(), 1, "tset")


# ── baselines ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ridge_regression_is_the_minimiser_of_its_loss():
    optimize = pytest.importorskip("scipy.optimize")
    x, y = rng().normal(size=(6, 3)), rng(1).normal(size=(6, 2))

    def loss(flat):
        w, b = flat[:6].reshape(3, 2), flat[6:]
        return ((y - x @ w - b) ** 2).sum() + 0.3 * (w**2).sum()

    found = optimize.minimize(loss, np.zeros(8), tol=1e-12).x
    wanted = x @ found[:6].reshape(3, 2) + found[6:]
    np.testing.assert_allclose(robot.linear_regression(x, y, x, 0.3), wanted, atol=1e-5)


def test_the_nearest_reading_is_found():
    xs, ys = np.array([[0.0, 0], [1, 1]]), np.array([[1.0, 2], [3, 4]])
    np.testing.assert_array_equal(robot.nearest_reading(xs, ys, np.array([[0.9, 0.8], [0.1, 0.2]])), ys[::-1])


def test_a_fitted_expert_finds_the_robot_and_an_average_one_does_not():
    (xs, ys), (xq, yq) = RobotTasks(10, 30, np.float64).sample(rng(), 20)
    error = {f: [np.mean((f(*task) - y) ** 2) for *task, y in zip(xs, ys, xq, yq, strict=True)]
             for f in (robot.fitted, robot.average_expert)}  # fmt: skip
    assert np.median(error[robot.fitted]) < 1e-3 < 0.05 < np.mean(error[robot.average_expert])


def test_the_average_robot_has_the_mean_speed():
    ranges = rng().uniform(0, FAR, (5, 10))
    c = rng(1).uniform(*rooms.CIRCUMFERENCE, 20000)
    each = [one_robot(side=side).expert(ranges[None])[0] for side in (1.0, -1.0)]
    found = robot.average_expert(None, None, robot.closeness(ranges))
    np.testing.assert_allclose(found, np.mean(each, 0) * np.mean(1 / c), rtol=0.01, atol=1e-9)


@pytest.mark.parametrize("simulated", [True, False])
def test_baselines_learn_from_training_tasks_alone(simulated, tmp_path, monkeypatch):
    family = RobotTasks() if simulated else SonarTasks(str(table(tmp_path)), 3, 3)
    kind, splits = type(family), []
    honest = kind.sample
    monkeypatch.setattr(kind, "sample", lambda *args: splits.append(args[-1]) or honest(*args))
    assert len(family.baselines()) == (4 if simulated else 2)
    assert splits and set(splits) == {"train"}


# ── the real robot ──────────────────────────────────────────────────────────────────────────────────────────────────


def table(folder, rows=1000, header=True, change=lambda lines: lines, name="sensor_readings_24.data.gz"):
    """A file in the official layout, whose first range tells the row: row / 1000."""
    drawn, moves = rng(), list(MOVES)
    lines = [",".join(robot.COLUMNS)] * header
    for row in range(rows):
        numbers = [row / 1000, *drawn.uniform(0.3, 5, 23)]
        lines.append(",".join([*(f"{x:.3f}" for x in numbers), moves[row % 4]]))
    text = "\n".join(change(lines)).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return folder


def rows_of(family, x) -> np.ndarray:
    """The rows of a table's readings, by robots without a bias that are not mirrored."""
    return np.round(1000 * robot.metres(x[..., 0])).astype(int)


@pytest.fixture
def plain(monkeypatch):
    """Robots that are as the real one is, with a circumference of 1 m."""
    one = lambda cls, rng, count: Robots(*(np.full((count, 1, 1), x) for x in (1.0, 0.0, 1.0)))  # noqa: E731
    monkeypatch.setattr(Robots, "drawn", classmethod(one))


def seen(family, split, tasks=200):
    (xs, ys), (xq, yq) = family.sample(rng(), tasks, split)
    return rows_of(family, np.concatenate([xs, xq], 1)), np.concatenate([ys, yq], 1)


def test_splits_follow_each_other_in_time_with_gaps(plain, tmp_path):
    family = SonarTasks(str(table(tmp_path)), 4, 4)
    train, val, test = (seen(family, split)[0] for split in ("train", "val", "test"))
    assert train.max() < 600 and val.min() - train.max() > GAP and test.min() - val.max() > GAP and test.max() < 1000
    assert len(np.unique(train)) > 400 and len(np.unique(test)) > 100


def test_rows_of_a_task_are_never_neighbours(plain, tmp_path):
    rows, speeds = seen(SonarTasks(str(table(tmp_path)), 4, 4), "test")
    assert np.diff(np.sort(rows, 1), axis=1).min() >= GAP
    np.testing.assert_allclose(speeds, np.array(list(MOVES.values()))[rows % 4], rtol=1e-6)


def test_unknown_robots_are_made_from_the_real_one(tmp_path):
    family = SonarTasks(str(table(tmp_path)), 4, 4, np.float64)
    ranges, speeds = family.rows["test"]
    rows = np.arange(50)[None]
    x, y = family.of(Robots(*(np.full((1, 1, 1), v) for v in (0.5, 0.1, -1.0))), "test", rows)
    wanted = np.minimum(np.c_[ranges[:50, :1], ranges[:50, :0:-1]] + 0.1, 5)
    np.testing.assert_allclose(x[0], np.exp(-wanted / robot.NEAR))
    np.testing.assert_allclose(y[0], speeds[:50, ::-1] / 0.5)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("name", ["sensor_readings_24.data.gz", "sensor_readings_24.data"])
def test_the_file_is_read_with_and_without_a_header_in_a_folder_or_alone(tmp_path, header, name):
    folder = table(tmp_path, header=header, name=name)
    for path in (folder, folder / name):
        ranges, speeds = robot.load(str(path))
        assert ranges.shape == (1000, 24) and speeds.shape == (1000, 2)
        np.testing.assert_allclose(ranges[:, 0], np.arange(1000) / 1000)


def cell(row, column, text):
    def change(lines):
        cells = lines[row].split(",")
        cells[column] = text
        return [*lines[:row], ",".join(cells), *lines[row + 1 :]]

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda lines: [line.partition(",")[2] for line in lines], "line 1: 24 columns, wanted 24 ranges and a move"),
        (lambda lines: [line.rpartition(",")[0] for line in lines], "has no column OUTPUT"),
        (lambda lines: [*lines[:5], lines[5][:20], *lines[6:]], "line 6: 4 columns, wanted 24 ranges and a move"),
        (cell(3, 2, "far"), "line 4: could not convert string to float: 'far'"),
        (cell(3, 2, "-1"), "line 4: a range is no length in metres"),
        (cell(3, 2, "nan"), "line 4: a range is no length in metres"),
        (cell(7, 24, "Jump"), "line 8: the move 'Jump', wanted one of Move-Forward, "),
        (lambda lines: lines[:1], "has no readings"),
        (lambda lines: [], "has no readings"),
        (lambda lines: lines[:300], r"shots=10 \+ queries=20 is more than the 8 rows of train, each 20 after"),
    ],
)
def test_a_bad_table_is_named(tmp_path, change, message):
    path = table(tmp_path, change=change) / "sensor_readings_24.data.gz"
    with pytest.raises(ValueError, match=message) as raised:
        SonarTasks(str(path)).sample(rng(), 1, "train")
    assert str(path) in str(raised.value)


def test_a_truncated_file_is_named(tmp_path):
    path = table(tmp_path) / "sensor_readings_24.data.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"sensor_readings_24\.data\.gz is not a complete gzip file"):
        robot.load(str(tmp_path))


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "sensor_readings_24.data").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"sensor_readings_24\.data is no table of readings"):
        robot.load(str(tmp_path))


def test_a_folder_without_the_file_and_no_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder is empty"):
        robot.load(str(tmp_path))
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(FileNotFoundError, match=r"found notes\.txt; wanted sensor_readings_24\.data\.gz"):
        robot.load(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        robot.load(str(tmp_path / "nowhere"))


def test_the_real_file(data_dir):
    family = SonarTasks(str(data_dir / "wall_following"))
    assert {split: len(x) for split, (x, _) in family.rows.items()} == {"train": 3274, "val": 1071, "test": 1071}
    (xs, ys), _ = family.sample(rng(), 5, "test")
    assert xs.shape == (5, 10, 24) and xs.min() >= 0 and xs.max() <= 1


# ── training and pictures ───────────────────────────────────────────────────────────────────────────────────────────


def trained(folder, **options):
    from tinymaml.runs.loop import restore, train

    small = dict(hidden=(20,), iterations=60, validate_every=60, save_every=60, validation_tasks=10, tasks=10)
    train(Config.default("robot", **{**small, **options}), folder / "run", progress=False)
    return restore(folder / "run")


@pytest.fixture(scope="module")
def learned(quick_code, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("robot"), iterations=200)


def test_maml_learns_to_steer(learned):
    from tinymaml.runs.adaptation import on_split

    found, _ = on_split(learned, "test", 50, 10)
    before, after = found.mean(0)[[0, -1]]
    assert after < 0.8 * before


def test_paths_are_drawn_and_shares_are_those_of_the_drives(learned):
    pytest.importorskip("matplotlib")
    from tinymaml.pictures import paths

    where = paths.field(learned, 6)
    rides = paths.rides(learned, where, 40)
    assert list(rides) == [paths.EXPERT, paths.BEFORE, paths.AFTER, paths.SCRATCH]
    assert all(ride.poses.shape == (6, 41, 3) for ride in rides.values())
    ours = {label: np.mean(~ride.touched & (ride.metres >= rides["expert"].metres / 2))
            for label, ride in rides.items()}  # fmt: skip
    assert paths.shares(learned, 6, 40) == pytest.approx(ours)
    figure = paths.paths(learned, count=2, columns=2, tasks=6)
    assert f"{100 * paths.shares(learned, 6)[paths.AFTER]:.0f} % after 10 steps" in figure.get_suptitle()


def test_a_robot_that_turns_on_the_spot_does_not_drive_well():
    from tinymaml.pictures.paths import well

    room, robots, start = empty_room(), one_robot(), np.array([[2.0, 1.5, 0.0]])
    rides = {"expert": drive(room, robots, start, robots.expert, 100),
             "spin": drive(room, robots, start, lambda ranges: np.array([[[0.1, -0.1]]]), 100)}  # fmt: skip
    assert not rides["spin"].touched[0] and well(rides)["expert"].all() and not well(rides)["spin"].any()


def test_the_policy_of_a_drive_is_the_adapted_network(learned):
    pytest.importorskip("matplotlib")
    from tinymaml.pictures import paths
    from tinymaml.runs.adaptation import path, task

    where = paths.field(learned, 3)
    ranges = where.rooms.ranges(where.start[:, None])
    found = paths.steering(learned, where.robots, 10)(ranges)
    for t in range(3):
        *_, theta = path(learned, task(learned, "test", t)[0], 10)
        x = learned.learner.family.inputs(Robots(*(part[t : t + 1] for part in where.robots)), ranges[t : t + 1])[0]
        np.testing.assert_allclose(found[t], learned.learner.predict(theta, x), rtol=1e-4, atol=1e-5)


def test_speeds_of_the_real_robot_are_drawn_against_the_truth(tmp_path):
    pytest.importorskip("matplotlib")
    from tinymaml.pictures import paths

    short = dict(iterations=3, compile=False)
    learned = trained(tmp_path, data=str(table(tmp_path)), shots=3, queries=3, **short)
    figure = paths.speeds(learned, GAP, count=2, rows=50)
    for row in range(2):
        for wheel in range(2):
            lines = {line.get_label(): line.get_ydata() for line in figure.axes[2 * row + wheel].lines}
            assert list(lines) == ["truth", paths.BEFORE, paths.AFTER, "support"] and len(lines["truth"]) == 50
            moves = {speed[wheel] for speed in MOVES.values()} | {speed[1 - wheel] for speed in MOVES.values()}
            assert len(set(np.round(lines["truth"], 5))) <= len(moves)


def test_a_model_can_be_used_without_its_data(tmp_path):
    folder = table(tmp_path)
    trained(tmp_path, data=str(folder), shots=3, queries=3, iterations=1, compile=False)
    (folder / "sensor_readings_24.data.gz").unlink()
    model = tm.load(tmp_path / "run")
    x = rng().random((3, 24), np.float32)
    assert model.adapt(x, np.zeros((3, 2), np.float32)).predict(x).shape == (3, 2)
