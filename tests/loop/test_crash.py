"""Kill anything at any moment, run the same command again: the artefacts are those of an
undisturbed run. Scripted engines here; tests/loop/test_embedded.py does it with the real ones."""

import re
import shutil
import signal
from pathlib import Path

import pytest

from si.errors import RETRY
from si.store.folder import FolderStore
from tests.loop.running import artefacts, environment, records, si_ctl, wreck
from tests.loop.scripted import write_policy
from tests.loop.tiny import tiny_data, tiny_recipe

KILLER = str(Path(__file__).parent / "killer")
RUN = "sums-gr-k4-s0"


def command(cwd, recipe, victim, n):
    counter = cwd / "counter"
    counter.mkdir(exist_ok=True)
    for name in ("controller", "points"):
        (counter / name).unlink(missing_ok=True)
    return si_ctl(
        *("iterate", "--recipe", str(recipe), "--workers", "2"),
        cwd=cwd,
        check=False,
        PYTHONPATH=f"{KILLER}:{environment()['PYTHONPATH']}",
        TEST_KILL=f"{counter}:{victim}:{n}",
    )


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """An undisturbed run, and the points at which it can be killed."""
    folder = tmp_path_factory.mktemp("calm")
    store = folder / "si-runs"
    policy = write_policy(folder / "scripted-policy", 0.6)
    data = tiny_data(FolderStore(store), policy)
    recipe = tiny_recipe(folder, data, explore={"shard_queries": 9})
    start = folder / "start"
    shutil.copytree(store, start)
    done = command(folder, recipe, "all", 0)
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        "recipe": recipe,
        "start": start,
        "points": (folder / "counter" / "points").read_text().splitlines(),
        "artefacts": artefacts(store, RUN),
        "records": records(store),
    }


def stage_of(point: str) -> str:
    path = point.split(" ", 1)[1]
    found = re.search(r"/(pool/[a-z]+|runs|policies|data)/", path)
    return found.group(1) if found else path


def test_points_lie_in_every_stage(calm):
    """The points at which the next test kills lie in every stage, and in the run's records."""
    stages = {stage_of(point) for point in calm["points"]}
    for stage in "explore verify resample rebalance train evaluate report".split():
        assert f"pool/{stage}" in stages
    assert "runs" in stages


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("victim", "stride"), [("all", 1), ("self", 11)])
def test_killed_again_and_again(victim, stride, tmp_path, calm):
    """Killed behind every single commit, and resumed, a run ends like one left in peace.

    Victim `all`, stride 1: each attempt dies, controller and worker, behind its first new
    commit. Victim `self`: every eleventh point kills the process at it, before a commit, behind
    one, or between a file and its record; the controller starts workers again, and gives up
    where that does not help.
    """
    store = tmp_path / "si-runs"
    shutil.copytree(calm["start"], store)
    deaths = 0
    for _ in range(3 * len(calm["points"])):
        done = command(tmp_path, calm["recipe"], victim, stride)
        assert "Traceback" not in done.stderr, done.stderr
        assert wreck(store) == []
        if done.returncode == 0:
            break
        assert done.returncode in (-signal.SIGKILL, RETRY), done.stderr
        deaths += 1
    assert done.returncode == 0
    if victim == "all":
        assert deaths > 0.8 * len(calm["points"])  # claims and provenance may differ a little
    assert artefacts(store, RUN) == calm["artefacts"]
    assert records(store) == calm["records"]
