"""Runs that end before their last iteration, as a user sees them; scripted engines."""

import contextlib
import json
import shutil
import signal
from pathlib import Path

import pytest

from si.store.folder import FolderStore
from tests.loop.killing import Deaths, Killed
from tests.loop.running import artefacts, environment, records, si_ctl, si_ctl_process
from tests.loop.tiny import tiny_data, tiny_recipe

RUN = "sums-gr-k4-s0"
KILLER = str(Path(__file__).parent / "killer")
PRICE = ("--set", "place.price_per_cpu_hour=3600")  # a second of a worker costs 1


@pytest.fixture
def start(tmp_path):
    """A folder with a data set and a recipe of three iterations, none of which gains on dev."""
    data = tiny_data(FolderStore(tmp_path / "si-runs"))
    recipe = tiny_recipe(tmp_path, data, iterations=3)
    return tmp_path, ("iterate", "--recipe", str(recipe), "--set", "data.slice_size=8")


def status(folder):
    return json.loads(si_ctl("status", RUN, "--json", cwd=folder).stdout)


def done(folder):
    return sorted(e for e in artefacts(folder / "si-runs", RUN) if e.endswith("/evaluate"))


@pytest.mark.slow
def test_patience_ends_a_run_well(start):
    """It says why, writes the report of what is done, and exits with 0; the same command again
    does nothing; more patience goes on; none ends it."""
    folder, command = start
    first = si_ctl(*command, "--patience", "1", cwd=folder)
    assert "No gain on dev" in first.stdout and "1 iteration in" in first.stdout
    assert done(folder) == ["it00/evaluate", "it01/evaluate"]
    assert status(folder)["stopped"]["rule"] == "patience"
    assert "No gain on dev" in si_ctl("status", RUN, cwd=folder).stdout
    before = artefacts(folder / "si-runs", RUN), records(folder / "si-runs")
    again = si_ctl(*command, "--patience", "1", cwd=folder)
    assert "No gain on dev" in again.stdout
    assert before == (artefacts(folder / "si-runs", RUN), records(folder / "si-runs"))
    si_ctl(*command, "--patience", "2", cwd=folder)
    assert done(folder)[-1] == "it02/evaluate"
    assert status(folder)["stopped"]["limit"] == 2
    last = si_ctl(*command, cwd=folder)
    assert done(folder)[-1] == "it03/evaluate" and "No gain" not in last.stdout
    assert status(folder)["stopped"] is None


def test_a_stopped_run_is_one_of_that_length(start):
    """Its artefacts, the report included, are those of a run with so few iterations; `report`
    shows them."""
    folder, command = start
    si_ctl(*command, "--patience", "1", cwd=folder)
    stopped = artefacts(folder / "si-runs", RUN)
    si_ctl(*command, "--run", "short", "--iterations", "1", cwd=folder)
    assert artefacts(folder / "si-runs", "short") == stopped
    report = json.loads(si_ctl("report", RUN, "--json", cwd=folder).stdout)
    assert [it["iteration"] for it in report["iterations"]] == [0, 1]


def test_the_report_of_a_run_that_became_more_patient(start):
    """`report` shows all iterations that are done, whatever patience the run was begun with."""
    folder, command = start
    si_ctl(*command, "--patience", "1", cwd=folder)
    si_ctl(*command, "--patience", "2", cwd=folder)
    report = json.loads(si_ctl("report", RUN, "--json", cwd=folder).stdout)
    assert [it["iteration"] for it in report["iterations"]] == [0, 1, 2]


@pytest.mark.slow
def test_killed_anywhere_it_ends_at_the_same_iteration(start):
    """Killed behind every commit, a run with patience ends like an undisturbed one."""
    folder, command = start
    calm = folder / "calm"
    shutil.copytree(folder / "si-runs", calm)
    si_ctl(*command, "--patience", "1", "--store", str(calm), cwd=folder)
    died: set[str] = set()

    def once(point: str) -> bool:
        new = point.startswith("after") and point not in died
        died.add(point)
        return new

    deaths = Deaths(folder / "si-runs", once)
    words = (*command, "--patience", "1", "--set", "place.trackers=[]")
    alive = False
    while not alive:
        deaths.dead = False
        with contextlib.suppress(Killed), deaths.possible():
            ended = si_ctl(*words, cwd=folder, check=False)
        alive = not deaths.dead
    assert ended.returncode == 0 and len(died) > 20, ended.stderr
    assert artefacts(folder / "si-runs", RUN) == artefacts(calm, RUN)
    assert status(folder)["stopped"]["iterations"] == 1


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_killed_by_the_kernel_it_ends_at_the_same_iteration(start):
    """Killed behind every seventh commit, a run with patience ends like an undisturbed one."""
    folder, command = start
    calm = folder / "calm"
    shutil.copytree(folder / "si-runs", calm)
    si_ctl(*command, "--patience", "1", "--store", str(calm), cwd=folder)
    counter = folder / "counter"
    counter.mkdir()
    deaths = 0
    for _ in range(60):
        for name in ("controller", "points"):
            (counter / name).unlink(missing_ok=True)
        ended = si_ctl_process(
            *(*command, "--patience", "1", "--workers", "2"),
            cwd=folder,
            check=False,
            PYTHONPATH=f"{KILLER}:{environment()['PYTHONPATH']}",
            TEST_KILL=f"{counter}:all:7",
        )
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        deaths += 1
    assert ended.returncode == 0 and deaths > 2
    assert artefacts(folder / "si-runs", RUN) == artefacts(calm, RUN)
    assert status(folder)["stopped"]["iterations"] == 1


@pytest.mark.slow
def test_a_limit_stops_with_a_code_and_a_higher_one_goes_on(start):
    """--max-cost ends the run within a stage with exit code 6 and says so; the same command stops
    at the same place; without the limit the run ends as if nothing had been."""
    folder, command = start
    calm = folder / "calm"
    shutil.copytree(folder / "si-runs", calm)
    si_ctl(*command, "--store", str(calm), cwd=folder)
    limited = (*command, *PRICE, "--max-cost", "0.000001")
    for _ in range(2):
        stopped = si_ctl(*limited, cwd=folder, check=False)
        assert stopped.returncode == 6 and "Traceback" not in stopped.stderr
        assert "--max-cost 1e-06 is reached" in stopped.stderr
        assert "--max-cost" in stopped.stderr.split("What to try")[1]
    tree = status(folder)
    assert tree["stopped"]["rule"] == "max_cost"
    (at,) = [
        stage
        for iteration in tree["iterations"]
        for stage in iteration["stages"]
        if stage["entry"] == tree["stopped"]["next"]
    ]
    assert at["state"] == "open" and at["committed"] == tree["stopped"]["committed"] > 0
    si_ctl(*command, cwd=folder)
    assert artefacts(folder / "si-runs", RUN) == artefacts(calm, RUN)
    assert status(folder)["stopped"] is None


def test_a_limit_leaves_the_report_of_whole_iterations(start):
    """Stopped in its second iteration, a run has the report of its first, and names it."""
    folder, command = start
    si_ctl(*command, "--iterations", "1", cwd=folder)
    one = artefacts(folder / "si-runs", RUN)["it01/report"]
    limited = si_ctl(*command, *PRICE, "--max-cost", "0.000001", cwd=folder, check=False)
    assert limited.returncode == 6 and "Report:" in limited.stdout
    assert "1 iteration in" in limited.stdout
    assert artefacts(folder / "si-runs", RUN)["it01/report"] == one
    assert status(folder)["stopped"]["next"] == "it02/explore"


@pytest.mark.slow
def test_a_run_within_its_budget_is_not_touched(start):
    """Limits that are not reached change no artefact."""
    folder, command = start
    si_ctl(*command, *PRICE, "--max-cost", "1e6", "--max-gpu-hours", "1", cwd=folder)
    limited = artefacts(folder / "si-runs", RUN)
    si_ctl(*command, "--store", str(folder / "free"), cwd=folder, check=False)
    tiny_data(FolderStore(folder / "free"))
    si_ctl(*command, "--store", str(folder / "free"), cwd=folder)
    assert artefacts(folder / "free", RUN) == limited
