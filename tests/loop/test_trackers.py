"""Trackers: what TensorBoard's, MLflow's and W&B's own readers find of a run, however often it was
told; and that none of them can stop it."""

import json
import struct
import threading
import time
from itertools import pairwise

import pytest
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from si.entry import Entry
from si.runs.record import load_recipe
from si.runs.status import ended, status
from si.runs.trackers.mlflow import MLflow
from si.runs.trackers.port import Batch, Point, Tracked
from si.runs.trackers.wandb import WandB
from si.runs.tracking import ITERATION, STEP, Backlog, Reader, Tracking, why
from si.store.artifact import Artifact
from si.store.folder import FolderStore
from tests.loop.running import ROOT, artefacts, environment, si_ctl, si_ctl_process
from tests.loop.tiny import tiny_data, tiny_recipe

RUN = "sums-gr-k4-s0"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a finished run of the scripted engines, and the recipe."""
    folder = tmp_path_factory.mktemp("track")
    recipe = tiny_recipe(folder, tiny_data(FolderStore(folder / "si-runs")))
    si_ctl("iterate", "--recipe", str(recipe), cwd=folder)
    return folder, str(recipe)


@pytest.fixture(scope="module")
def expected(place):
    """(metric, step) -> value, by what the artefacts say."""
    store = FolderStore(place[0] / "si-runs")
    where = {entry: address for entry, (address, _) in artefacts(store.root, RUN).items()}

    def read(entry):
        return Artifact.open(store, where[entry])

    found, before = {}, 0
    for t in (0, 1, 2):
        scores = read(f"it{t:02d}/evaluate").json("scores.json")
        found |= {(f"accuracy/{split}", t): part["accuracy"] for split, part in scores.items()}
        if not t:
            continue
        metrics = read(f"it{t:02d}/rebalance").json("metrics.json")
        for what in ("successes", "examples"):
            shares = metrics[what]["share_by_level"]
            found[f"{what}/head", t] = shares["L1"]
            found[f"{what}/tail", t] = shares["L5"] + shares["U"]
            found[f"{what}/gini", t] = metrics[what]["gini"]
        facts = read(f"it{t:02d}/train").manifest.facts
        for i, loss in enumerate(facts["losses"], before + 1):
            found |= {("train/loss", i): loss, ("train/seconds", i): 0.25}
            found |= {("train/learning_rate", i): 0.001, ("train/grad_norm", i): 0.5}
        before += facts["steps"]
        found |= {("training/steps", t): facts["steps"], ("training/mfu", t): 0.5}
    return found


def same(points, expected):
    """All points that are expected, at single precision, and no place twice."""
    found = {(name, step): value for name, step, value in points}
    assert len(found) == len(points)
    assert expected.keys() <= found.keys()
    for place, value in expected.items():
        assert found[place] == pytest.approx(value, rel=1e-6), place
    trained = {step for name, step in found if name == "train/loss"}
    assert trained == {step for name, step in expected if name == "train/loss"}


def events(folder):
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    names = read.Tags()["scalars"]
    return [(name, point.step, point.value) for name in names for point in read.Scalars(name)]


def test_tensorboard_reads_what_the_loop_wrote(place, expected):
    """The loop leaves event files from which TensorBoard's reader gets every figure once."""
    same(events(place[0] / "si-runs" / "tensorboard" / RUN), expected)


def test_again_is_not_twice(place, expected):
    """Resuming and tracking afterwards change no event file; with the files gone, `track` writes
    the same bytes again."""
    folder = place[0] / "si-runs" / "tensorboard" / RUN
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    si_ctl("iterate", "--recipe", place[1], cwd=place[0])
    said = json.loads(si_ctl("track", RUN, "--json", cwd=place[0]).stdout)
    assert said["trackers"]["tensorboard"]["new"] == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    for name in before:
        (folder / name).unlink()
    done = si_ctl("track", RUN, "--follow", cwd=place[0])  # which ends, as the run has
    assert f"{len(before) - 1} of {len(before) - 1} stages are new" in done.stdout
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_another_stores_run_has_a_folder_of_its_own(place, tmp_path):
    """Runs of one name in two stores do not mix."""
    from si.runs.trackers.tensorboard import TensorBoard

    tracked = [Tracked(RUN, RUN, key * 16, {}) for key in "ab"]
    for run in (*tracked, *tracked):
        TensorBoard(tmp_path).begin(run)
    folders = sorted(path.name for path in (tmp_path / "tensorboard").iterdir())
    assert folders == [RUN, f"{RUN}-bbbbbb"]


def points_of_mlflow(uri):
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("si-ctl")
    (run,) = client.search_runs([experiment.experiment_id])
    points = [
        (name, metric.step, metric.value)
        for name in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, name)
    ]
    return run, points


@pytest.mark.slow
def test_mlflow_reads_it_back(place, expected, tmp_path):
    """MLflow's client finds one run with the recipe and every figure once, told twice or not."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for _ in range(2):
        si_ctl("track", RUN, "--to", "mlflow", cwd=place[0], MLFLOW_TRACKING_URI=uri)
    run, points = points_of_mlflow(uri)
    same(points, expected)
    assert (run.info.run_name, run.info.status) == (RUN, "FINISHED")
    assert run.data.params["strategy"] == "gr" and run.data.params["sampling.temperature"] == "1.0"


@pytest.mark.parametrize("store", ["sqlite:///{}/mlflow.db", "file://{}/mlruns"])
def test_mlflow_goes_on_after_a_death(place, expected, tmp_path, monkeypatch, store):
    """A process that died within a batch leaves no point that would be told a second time, in
    stores that keep equal points once and in those that do not."""
    uri = store.format(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    class Dying(MLflow):
        def log(self, batch):
            if batch.name != "it01/train":
                return super().log(batch)
            half = batch.points[: len(batch.points) // 2]
            super().log(Batch("half", batch.number, batch.first, half))
            raise ConnectionError("gone")

    kept = FolderStore(place[0] / "si-runs")
    run = Tracked.of(kept, RUN, 1, load_recipe(kept, RUN, 1))
    with pytest.raises(ConnectionError):
        Backlog(kept, RUN, run, Dying(tmp_path)).go_on()
    for _ in range(2):
        backlog = Backlog(kept, RUN, run, MLflow(tmp_path))
        backlog.go_on()
        backlog.tracker.end()
    same(points_of_mlflow(uri)[1], expected)


def wandb_records(path):
    """The records of W&B's own file: a log in LevelDB's format, of its protocol's messages."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at < len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole of a record, or its last part
            yield Record.FromString(parts)
            parts = b""


def written_by_wandb(file):
    """All records, once W&B's own process has written its last one: it ends after our command."""
    for _ in range(600):
        records = list(wandb_records(file))
        if records and records[-1].WhichOneof("record_type") in ("exit", "footer"):
            break
        time.sleep(0.1)
    return records


def points_of_wandb(folder):
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    points, numbers, runs = [], [], []
    for record in written_by_wandb(file):
        if record.WhichOneof("record_type") == "run":
            runs.append(record.run)
        if record.WhichOneof("record_type") == "history":
            row = {
                item.key or "".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            step = row["gradient_step"] if "gradient_step" in row else row["iteration"]
            points += [(name, step, value) for name, value in row.items() if "/" in name]
            numbers.append(row["_step"])
    assert numbers == sorted(set(numbers))
    return runs[0], points


def test_wandb_reads_it_back(place, expected):
    """W&B's offline file holds every figure once, and only one such file is left."""
    for _ in range(2):
        si_ctl("track", RUN, "--to", "wandb", cwd=place[0], WANDB_MODE="offline")
    run, points = points_of_wandb(place[0] / "si-runs")
    same(points, expected)
    assert (run.project, run.display_name) == ("si-ctl", RUN)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["strategy"] == "gr" and config["k"] == 4


class FakeRun:
    """Stands in for W&B's run as its server would resume it, with so many points."""

    def __init__(self, points):
        self.step, self.offline, self.url, self.logged = points, False, "https://there", []
        self.settings = type("", (), {"sync_dir": "x"})()

    def define_metric(self, *_, **__):
        pass

    def log(self, values, step):
        self.logged.append(step)


def test_wandb_online_leaves_out_what_it_has(tmp_path, monkeypatch):
    """Points whose numbers W&B has counted already are not sent again."""
    made = FakeRun(3)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("wandb.login", lambda **_: True)
    monkeypatch.setattr("wandb.init", lambda **_: made)
    tracker = WandB(tmp_path)
    tracker.begin(Tracked(RUN, RUN, "k" * 16, {}))
    points = tuple(Point(STEP, i, 0.0, {"train/loss": 1.0}) for i in range(3))
    tracker.log(Batch("it01/train", 0, 0, (*points[:2], Point(ITERATION, 1, 0.0, {}))))
    tracker.log(Batch("it02/train", 1, 3, points))
    assert made.logged == [3, 4, 5]


@pytest.mark.slow
def test_nothing_of_a_tracker_is_computed_with(place, tmp_path):
    """A run without trackers, one with a sick tracker and one with a deaf one end with the same
    artefacts; the sick and the deaf are named once each."""
    folder, recipe = place
    (tmp_path / "trackers.py").write_text(TRACKERS)
    path = f"{tmp_path}:{environment()['PYTHONPATH']}"
    before = artefacts(folder / "si-runs", RUN)
    for trackers, words in (("[]", ()), ("[trackers:Sick, trackers:Deaf]", ("Sick", "Deaf"))):
        store = tmp_path / f"store-{len(words)}"
        for part in ("data", "policies"):
            (store / part).parent.mkdir(exist_ok=True)
            (store / part).symlink_to(folder / "si-runs" / part)
        done = si_ctl_process(
            *("iterate", "--recipe", recipe, "--store", str(store)),
            *("--set", f"place.trackers={trackers}"),
            cwd=tmp_path,
            PYTHONPATH=path,
        )
        assert artefacts(store, RUN) == before
        assert not (store / "tensorboard").exists()
        assert "\x1b" not in done.stdout
        assert done.stdout.count("Sick failed") == words.count("Sick")
        assert done.stdout.count("Deaf does not answer") == words.count("Deaf")
        assert all(f"si-ctl track {RUN} --to trackers:{word}" in done.stdout for word in words)


TRACKERS = """
import time
from si.runs import tracking

tracking.PATIENCE = 1.0

class Sick:
    where = "nowhere"

    def __init__(self, folder):
        pass

    def begin(self, run):
        return ()

    def log(self, batch):
        raise ValueError("\\x1b[31m sick")

    def end(self):
        pass


class Deaf(Sick):
    def log(self, batch):
        time.sleep(1000)
"""


@pytest.mark.parametrize(
    "settings,said",
    [
        ("[tensorbord]", "did you mean tensorboard?"),
        ("[trackers:Missing]", "cannot be imported"),
    ],
)
def test_wrong_trackers_are_named(place, settings, said):
    """A tracker that does not exist is refused by name: by the loop's settings, or by `track`."""
    where = {"SI_PLACE__TRACKERS": settings}
    done = si_ctl("track", RUN, cwd=place[0], check=False, **where)
    assert done.returncode == 3 and said in done.stderr and "Traceback" not in done.stderr


def test_a_tracker_that_fails_afterwards_is_an_error(place):
    """`track` names a tracker that does not answer, and says that trying again makes sense."""
    words = ("track", RUN, "--to", "mlflow")
    none = si_ctl(*words, cwd=place[0], check=False)
    assert none.returncode == 3 and "MLFLOW_TRACKING_URI is not set" in none.stderr
    away = {"MLFLOW_TRACKING_URI": "http://me:s3cret@127.0.0.1:9"}
    away |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = si_ctl(*words, cwd=place[0], check=False, **away)
    assert done.returncode == 4 and "mlflow failed" in done.stderr
    assert "127.0.0.1" in done.stderr and "s3cret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert (
        why(ValueError("no https://me:s3cret@host/x\nhere")) == "ValueError: no https://host/x here"
    )


def test_the_loop_waits_for_no_tracker(place):
    """What a stage has to say is taken in at once, whatever the trackers are at."""
    store = FolderStore(place[0] / "si-runs")
    manifest = Artifact.open(store, artefacts(store.root, RUN)["it01/train"][0]).manifest
    told, go_on = [], threading.Event()

    class Slow:
        where = ""

        def begin(self, run):
            assert go_on.wait(300)
            return ()

        def log(self, batch):
            told.append(batch.name)

        def end(self):
            told.append("end")

    with Tracking(Tracked(RUN, RUN, "k", {}), store, {"slow": Slow}, told.append) as tracking:
        for _ in range(3):
            event = {"event": "done", "entry": "it01/train"}
            tracking.hear(event, {Entry(1, "train"): manifest})
        assert told == []
        go_on.set()
    assert told == ["it01/train"] * 3 + ["end"]


def test_gradient_steps_are_counted_over_iterations(place):
    """The second iteration's losses follow the first's, each at the time it was made."""
    store = FolderStore(place[0] / "si-runs")
    reader = Reader(store)
    read = [
        reader.read(entry, Artifact.open(store, address).manifest)
        for entry, (address, _) in artefacts(store.root, RUN).items()
    ]
    batches = [batch for batch in read if batch]
    assert [batch.number for batch in batches] == list(range(len(batches)))
    steps = [p for batch in batches for p in batch.points if p.axis == STEP]
    assert [point.step for point in steps] == list(range(1, len(steps) + 1))
    first = [point.time for batch in batches[:5] for point in batch.points if point.axis == STEP]
    assert [b - a for a, b in pairwise(first)] == [0.25] * (len(first) - 1)
    assert ended(status(store, RUN))


def test_the_command_line_imports_no_tracker():
    """Looking for trackers, and opening TensorBoard's files, loads no library of theirs."""
    import subprocess
    import sys

    code = (
        "import sys, si.cli.iterate, si.runs.trackers as t, pathlib\n"
        "t.trackers(['tensorboard', 'mlflow', 'wandb'], pathlib.Path('x'))['tensorboard']()\n"
        "print(*{'torch', 'mlflow', 'wandb', 'tensorboard', 'google'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
