"""Kill anything at any moment, run the same command again: the artefacts are those of an
undisturbed run.

Every point is tried in this process, by an exception that nothing catches (tests.loop.killing);
real SIGKILLs try a few of them, and all of them in `make soak`. Scripted engines here;
tests/loop/test_embedded.py does it with the real ones.
"""

import itertools
import re
import shutil
import signal
from pathlib import Path

import pytest

from si.errors import RETRY
from si.store.folder import FolderStore
from tests.loop.killing import Deaths, Killed
from tests.loop.running import (
    artefacts,
    environment,
    records,
    si_ctl,
    si_ctl_process,
    wreck,
)
from tests.loop.scripted import write_policy
from tests.loop.tiny import tiny_data, tiny_recipe

KILLER = str(Path(__file__).parent / "killer")
RUN = "sums-gr-k4-s0"


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
    deaths = Deaths(store, lambda point: False)
    assert attempt(folder, recipe, deaths)
    return {
        "recipe": recipe,
        "start": start,
        "points": deaths.passed,
        "artefacts": artefacts(store, RUN),
        "records": records(store),
    }


def attempt(folder, recipe, deaths):
    """One attempt at the run; whether it lived to its end."""
    words = ("iterate", "--recipe", str(recipe), "--workers", "2", "--set", "place.trackers=[]")
    deaths.dead = False
    try:
        with deaths.possible():
            done = si_ctl(*words, cwd=folder, check=False)
    except Killed:
        return False
    assert deaths.dead or done.returncode == 0, done.stdout + done.stderr
    return not deaths.dead


def stage_of(point: str) -> str:
    path = point.split(" ", 1)[1]
    found = re.match(r"(pool/[a-z]+|runs|policies|data)/", path)
    return found.group(1) if found else path


def same_as(calm, store):
    assert wreck(store) == []
    assert artefacts(store, RUN) == calm["artefacts"]
    assert records(store) == calm["records"]


def test_points_lie_in_every_stage(calm):
    """The points at which the next tests kill lie in every stage, and in the run's records; each
    kind of them is there."""
    stages = {stage_of(point) for point in calm["points"]}
    for stage in "explore verify resample rebalance train evaluate report".split():
        assert f"pool/{stage}" in stages
    assert "runs" in stages
    assert {point.split()[0] for point in calm["points"]} == {"before", "after", "put"}
    assert any("/claims/" in point for point in calm["points"])


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_at_every_point(tmp_path, calm):
    """Killed once at every point, before a commit, behind it, and between a file and its record,
    and resumed each time, a run ends like one left in peace; what a kill leaves is never torn."""
    store = tmp_path / "si-runs"
    shutil.copytree(calm["start"], store)
    died: set[str] = set()

    def once(point: str) -> bool:
        new = point not in died
        died.add(point)
        return new

    deaths = Deaths(store, once)
    while not attempt(tmp_path, calm["recipe"], deaths):
        assert wreck(store) == []
    # A resumed run claims and sorts out less or more than an undisturbed one, but commits the same.
    lasting = {point for point in calm["points"] if "/claims/" not in point}
    assert lasting <= died
    same_as(calm, store)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_at_one_point_only(tmp_path, calm):
    """After a single death, at points spread over a whole run, one more command is enough."""
    for number in range(0, len(calm["points"]), max(1, len(calm["points"]) // 12)):
        store = tmp_path / str(number) / "si-runs"
        shutil.copytree(calm["start"], store)
        passing = itertools.count()
        deaths = Deaths(store, lambda _, passing=passing, last=number: next(passing) == last)
        assert not attempt(store.parent, calm["recipe"], deaths)
        assert attempt(store.parent, calm["recipe"], deaths)
        same_as(calm, store)


def killed(cwd, recipe, victim, n):
    """One attempt by processes, of which the killer kills `victim` at every n-th point."""
    counter = cwd / "counter"
    counter.mkdir(exist_ok=True)
    for name in ("controller", "points"):
        (counter / name).unlink(missing_ok=True)
    return si_ctl_process(
        *("iterate", "--recipe", str(recipe), "--workers", "2"),
        cwd=cwd,
        check=False,
        PYTHONPATH=f"{KILLER}:{environment()['PYTHONPATH']}",
        TEST_KILL=f"{counter}:{victim}:{n}",
    )


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("victim", "point"), [("all", 9), ("boss", 60), ("worker", 4)])
def test_killed_by_the_kernel(victim, point, tmp_path, calm):
    """SIGKILL of controller and worker, of the controller alone, and of a worker alone: the same
    command ends the run as one left in peace. A worker alone is begun again by its controller."""
    store = tmp_path / "si-runs"
    shutil.copytree(calm["start"], store)
    done = killed(tmp_path, calm["recipe"], victim, -point)
    if victim == "worker":
        assert done.returncode == 0, done.stderr
        assert "worker" in done.stdout and "trying again" in done.stdout
    else:
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert wreck(store) == []
        done = killed(tmp_path, calm["recipe"], victim, 0)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    same_as(calm, store)


@pytest.mark.soak
@pytest.mark.timeout(3000)
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
    commits = sum(point.startswith("after") for point in calm["points"])
    deaths = 0
    for _ in range(3 * commits):
        done = killed(tmp_path, calm["recipe"], victim, stride)
        assert "Traceback" not in done.stderr, done.stderr
        assert wreck(store) == []
        if done.returncode == 0:
            break
        assert done.returncode in (-signal.SIGKILL, RETRY), done.stderr
        deaths += 1
    assert done.returncode == 0
    if victim == "all":
        assert deaths > 0.8 * commits  # claims and provenance may differ a little
    same_as(calm, store)
