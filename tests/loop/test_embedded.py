"""The loop with nothing scripted: the embedded policy samples, is verified, trained, scored."""

import shutil

import polars
import pytest

from si.store.artifact import Artifact
from si.store.folder import FolderStore
from tests.loop.running import artefacts, environment, records, si_ctl, si_ctl_process, wreck
from tests.loop.test_crash import KILLER

RUN = "embedded-gr-k4-s0"
SMALL = (
    *("iterate", "--strategy", "gr", "--k", "4", "--iterations", "1", "--workers", "2"),
    *("--set", "data.slice_size=40", "--set", "evaluate.limit=20"),
    *("--set", "explore.shard_queries=20"),
)


def small_run(cwd, stride=0):
    counter = cwd / "counter"
    counter.mkdir(exist_ok=True)
    for name in ("controller", "points"):
        (counter / name).unlink(missing_ok=True)
    return si_ctl_process(
        *SMALL,
        cwd=cwd,
        check=False,
        PYTHONPATH=f"{KILLER}:{environment()['PYTHONPATH']}",
        TEST_KILL=f"{counter}:all:{stride}",
    )


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """An undisturbed run of the embedded policy."""
    folder = tmp_path_factory.mktemp("embedded")
    done = small_run(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "times",
    [pytest.param(3, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.soak)],
)
def test_killed_by_the_kernel_it_ends_the_same(times, calm, tmp_path):
    """SIGKILLs of controller and worker along a run of the real engines change no byte of it."""
    store = tmp_path / "si-runs"
    # Making the data set is the same in every run; its own commits are killed elsewhere.
    for part in ("data", "policies"):
        shutil.copytree(calm / "si-runs" / part, store / part)
    points = (calm / "counter" / "points").read_text().splitlines()
    rest = [p for p in points if "/data/puzzles" not in p and "/policies/" not in p]
    deaths = 0
    for _ in range(30):
        done = small_run(tmp_path, stride=max(1, len(rest) // (times + 1)))
        assert "Traceback" not in done.stderr, done.stderr
        if done.returncode == 0:
            break
        deaths += 1
    assert done.returncode == 0
    assert deaths >= times
    assert wreck(store) == []
    assert artefacts(store, RUN) == artefacts(calm / "si-runs", RUN)
    assert records(store) == records(calm / "si-runs")


def test_artefacts_read_as_users_read_them(calm):
    """polars reads a run's tables: verdicts join rollouts, examples are right responses whose
    tokens begin with their prefix, and the accuracy adds up to the score that is recorded."""
    store = FolderStore(calm / "si-runs")
    where = {entry: address for entry, (address, _) in artefacts(calm / "si-runs", RUN).items()}

    def read(entry, name):
        parts = (calm / "si-runs" / where[entry] / "data").rglob(name)
        return polars.concat([polars.read_parquet(path) for path in parts])

    key = ["query_id", "round", "prefix_id", "sample"]
    rollouts = read("it01/explore", "rollouts.parquet")
    verdicts = read("it01/verify", "verdicts.parquet")
    assert len(rollouts) == len(verdicts) == 40 * 4
    judged = rollouts.join(verdicts, on=key)
    assert len(judged) == 160 and judged["correct"].mean() > 0.3
    more = read("it01/explore-2", "rollouts.parquet")
    assert (more["prefix_len"] > 0).any()
    both = polars.concat([rollouts, more]).join(
        polars.concat([verdicts, read("it01/verify-2", "verdicts.parquet")]), on=key
    )
    examples = read("it01/rebalance", "examples.parquet")
    joined = examples.join(both, on=key)
    assert len(joined) == len(examples) > 0
    assert joined["correct"].all()
    assert (joined["token_ids"] == joined["token_ids_right"]).all()
    scores = read("it01/evaluate", "scores.parquet").filter(polars.col("split") == "test")
    recorded = Artifact.open(store, where["it01/evaluate"]).manifest.facts["accuracy_test"]
    assert (scores["correct"] / scores["samples"]).mean() == pytest.approx(recorded)
    assert set(scores["level"]) <= {"L1", "L2", "L3", "L4", "L5", "U"}


def test_splits_are_disjoint_and_inspect_proves_it(calm):
    """data inspect finds no overlap between the embedded splits and no id that lies."""
    done = si_ctl("data", "inspect", cwd=calm)
    assert "train and test: 0 queries in both" in done.stdout
    assert "id does not match their content: 0" in done.stdout
