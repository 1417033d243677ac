"""Kill anything at any moment, run the same command again: the artefacts are those of an
undisturbed run. Scripted engines here; tests/loop/test_embedded.py does it with the real ones."""

import os
import shutil
from pathlib import Path

import pytest

from si.adapters.folder import FolderStore
from tests.loop.running import artefacts, environment, records, si_ctl, wreck
from tests.loop.tiny import tiny_data, tiny_recipe

KILLER = str(Path(__file__).parent / "killer")
RUN = "sums-gr-k4-s0"
SOAK = bool(os.environ.get("SI_TEST_SOAK"))


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """An undisturbed run, and how many points it has at which it can be killed."""
    folder = tmp_path_factory.mktemp("calm")
    store = folder / "si-runs"
    recipe = tiny_recipe(folder, tiny_data(FolderStore(store)))
    counter = folder / "counter"
    counter.mkdir()
    start = folder / "start"
    shutil.copytree(store, start)
    done = command(folder, recipe, counter, "self", 0)
    assert done.returncode == 0, done.stdout + done.stderr
    points = (counter / "points").read_text().splitlines()
    return {
        "recipe": recipe,
        "start": start,
        "points": points,
        "artefacts": artefacts(store, RUN),
        "records": records(store),
    }


def command(cwd, recipe, counter, victim, n):
    counter.mkdir(exist_ok=True)
    (counter / "controller").unlink(missing_ok=True)
    (counter / "points").unlink(missing_ok=True)
    return si_ctl(
        *("iterate", "--recipe", str(recipe), "--workers", "2"),
        cwd=cwd,
        check=False,
        PYTHONPATH=f"{KILLER}:{environment()['PYTHONPATH']}",
        TEST_KILL=f"{counter}:{victim}:{n}",
    )


def begin(tmp_path, calm):
    store = tmp_path / "si-runs"
    shutil.copytree(calm["start"], store)
    return store


def assert_same(store, calm):
    assert artefacts(store, RUN) == calm["artefacts"]
    assert records(store) == calm["records"]
    assert wreck(store) == []


def stage_of(point: str) -> str:
    path = point.split(" ", 1)[1]
    for root in ("/pool/", "/runs/", "/policies/", "/data/"):
        if root in path:
            return root.strip("/") + "/" + path.split(root)[1].split("/")[0]
    return "other"


def test_every_stage_has_points(calm):
    """The points at which a run can be killed lie in every stage and in the run's own records."""
    stages = {stage_of(point) for point in calm["points"]}
    expected = "explore verify resample rebalance train evaluate report levels".split()
    assert {f"pool/{stage}" for stage in expected} <= stages
    assert f"runs/{RUN}" in stages


@pytest.mark.parametrize("victim", ["all", "self"])
def test_killed_again_and_again(victim, tmp_path, calm):
    """A run whose every attempt dies a few commits further on ends like an undisturbed one.

    The deaths fall on every commit boundary that is new to the run, in turn: the stride over
    points is 1 in a soak and prime otherwise, so that successive attempts meet all kinds.
    """
    store = begin(tmp_path, calm)
    stride = 1 if SOAK else 7
    deaths = 0
    for _ in range(3 * len(calm["points"])):
        done = command(tmp_path, calm["recipe"], tmp_path / "counter", victim, stride)
        assert "Traceback" not in done.stderr, done.stderr
        assert wreck(store) == []
        if done.returncode == 0:
            break
        deaths += 1
    assert done.returncode == 0
    assert deaths >= len(calm["points"]) / stride / 4
    assert_same(store, calm)
