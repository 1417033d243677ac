"""The command line over whole runs with scripted engines: resume, sharing, named errors."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace

import pytest

from si.stages import STAGES
from si.store.folder import FolderStore
from tests.loop.running import (
    SI_CTL,
    artefacts,
    environment,
    records,
    si_ctl,
    si_ctl_process,
)
from tests.loop.tiny import tiny_data, tiny_recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set, a recipe, and a finished run of gr."""
    folder = tmp_path_factory.mktemp("loop")
    recipe = tiny_recipe(folder, tiny_data(FolderStore(folder / "si-runs")))
    done = si_ctl("iterate", "--recipe", str(recipe), cwd=folder)
    assert "Report:" in done.stdout
    return folder, str(recipe)


def refused(done, code: int, *words: str) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_finished_run_is_kept(place):
    """The same command again does nothing but find everything committed."""
    folder, recipe = place
    before = artefacts(folder / "si-runs", "sums-gr-k4-s0"), records(folder / "si-runs")
    done = si_ctl("iterate", "--recipe", recipe, cwd=folder)
    assert done.stdout.count("   kept") >= 20
    assert all(" kept " in line for line in done.stdout.splitlines() if "/e" in line[:8])
    assert before == (artefacts(folder / "si-runs", "sums-gr-k4-s0"), records(folder / "si-runs"))


def test_strategies_share_the_first_round(place):
    """Another strategy explores iteration 1's first round no second time."""
    folder, recipe = place
    si_ctl("iterate", "--recipe", recipe, "--strategy", "vanilla", cwd=folder)
    gr = artefacts(folder / "si-runs", "sums-gr-k4-s0")
    vanilla = artefacts(folder / "si-runs", "sums-vanilla-k4-s0")
    for entry in ("it00/evaluate", "it01/explore", "it01/verify"):
        assert gr[entry] == vanilla[entry]
    assert gr["it01/train"] != vanilla["it01/train"]
    assert "it01/resample" not in vanilla


@pytest.mark.parametrize("strategy", ["tc", "rp", "ar", "gr+tc", "ar+rp"])
def test_every_strategy_reaches_a_report(place, strategy):
    """Each strategy and composition runs to its report."""
    folder, recipe = place
    done = si_ctl("iterate", "--recipe", recipe, "--strategy", strategy, cwd=folder)
    assert done.stdout.rstrip().endswith(".html")


def test_doubling_k_keeps_the_first_samples(place):
    """The first samples of a run with twice the K are the samples of the run with K."""
    import pyarrow.compute as pc

    from si.store.artifact import Artifact

    folder, recipe = place
    si_ctl("iterate", "--recipe", recipe, "--k", "8", "--iterations", "1", cwd=folder)
    store = FolderStore(folder / "si-runs")
    tables = [
        Artifact.open(store, artefacts(folder / "si-runs", run)["it01/explore"][0]).tables(
            "rollouts.parquet"
        )
        for run in ("sums-gr-k4-s0", "sums-gr-k8-s0")
    ]
    assert tables[1].filter(pc.less(tables[1]["sample"], 4)).equals(tables[0])


def test_more_iterations_resume(place):
    """More iterations are a resume: what was done stays, the rest is added."""
    folder, recipe = place
    run = ("iterate", "--recipe", recipe, "--run", "longer", "--set", "data.slice_size=8")
    si_ctl(*run, "--iterations", "1", cwd=folder)
    first = artefacts(folder / "si-runs", "longer")
    done = si_ctl(*run, "--iterations", "3", cwd=folder)
    longer = artefacts(folder / "si-runs", "longer")
    assert "it03/train" in longer and "it01/report" in first
    assert {k: v for k, v in longer.items() if k in first} == first
    assert "3 iterations" in done.stdout


@pytest.mark.slow
def test_workers_are_no_part_of_identity(place):
    """The installed command with three worker processes gives the artefacts of one process that
    does all, at the same addresses; so does an inline cluster whose workers take turns."""
    folder, recipe = place
    for how, name in ((si_ctl_process, "three"), (si_ctl, "turns")):
        store = folder / name
        tiny_data(FolderStore(store))
        words = ("iterate", "--recipe", recipe, "--store", str(store), "--workers", "3")
        done = how(*words, cwd=folder)
        assert "Report:" in done.stdout
        assert artefacts(store, "sums-gr-k4-s0") == artefacts(folder / "si-runs", "sums-gr-k4-s0")


def test_dry_run_makes_nothing(place):
    """--dry-run shows every stage, what is committed and what is to do, and writes nothing."""
    folder, recipe = place
    before = records(folder / "si-runs")
    done = si_ctl("iterate", "--recipe", recipe, "--seed", "5", "--dry-run", cwd=folder)
    assert records(folder / "si-runs") == before
    assert "it02/train" in done.stdout and "to do" in done.stdout
    done = si_ctl("iterate", "--recipe", recipe, "--dry-run", cwd=folder)
    assert "to do" not in done.stdout


def test_changed_recipe_is_refused_with_ways_out(place):
    """A changed recipe under an old run name stops, says what differs and how to go on."""
    folder, recipe = place
    done = si_ctl("iterate", "--recipe", recipe, "--set", "train.lr=0.5", cwd=folder, check=False)
    refused(done, 3, "sums-gr-k4-s0", "train.lr: 0.0002 -> 0.5", "--run", "--fresh")


def test_fresh_computes_anew_and_deletes_nothing(place):
    """--fresh begins a second generation beside the first, which stays."""
    folder, recipe = place
    run = ("iterate", "--recipe", recipe, "--run", "again", "--iterations", "1")
    si_ctl(*run, cwd=folder)
    first = artefacts(folder / "si-runs", "again")
    count = records(folder / "si-runs")
    si_ctl(*run, "--fresh", cwd=folder)
    second = artefacts(folder / "si-runs", "again")
    assert {a for a, _ in first.values()} & {a for a, _ in second.values()} == {
        first["it00/data"][0]  # a data set that the recipe names by its address
    }
    assert second["it01/explore"][1] == first["it01/explore"][1]
    assert records(folder / "si-runs")["manifests"] > count["manifests"]


def test_wrong_words_are_named(place):
    """Unknown strategy, unknown key, unknown recipe, bad run name: named, exit code 3."""
    folder, recipe = place
    for words, named in [
        (("--strategy", "rr"), "unknown strategy 'rr'"),
        (("--set", "train.learning_rate=1"), "train.learning_rate"),
        (("--set", "tran.lr=1"), "did you mean train"),
        (("--recipe", "embeded"), "embeded"),
        (("--recipe", "./nowhere.yaml"), "nowhere.yaml"),
        (("--run", "Not A Name"), "Not A Name"),
        (("--k", "0"), "k (from --k)"),
        (("--store", "ftp://x/y"), "ftp"),
        (("--set", "model.source=/nowhere"), "/nowhere"),
        (("--set", "data.source=data/none-0123"), "data/none-0123"),
        (("--iterations", "9"), "9"),
    ]:
        base = () if words[0] == "--recipe" else ("--recipe", recipe)
        done = si_ctl("iterate", *base, *words, "--dry-run", cwd=folder, check=False)
        refused(done, 3, named)


def test_no_correct_response_stops_before_training(place):
    """A policy without one right answer: said so, exit 3, and nothing was trained."""
    folder, _ = place
    apart = folder / "hopeless"
    apart.mkdir()
    recipe = tiny_recipe(apart, tiny_data(FolderStore(apart / "si-runs")))
    # No token is enough for an answer.
    done = si_ctl(
        *("iterate", "--recipe", str(recipe), "--set", "sampling.max_new_tokens=3"),
        cwd=apart,
        check=False,
    )
    refused(done, 3, "Iteration 1 has no correct response", "nothing to train on")
    assert not list((apart / "si-runs" / "pool").glob("train/*"))


@pytest.mark.slow
def test_second_iterate_on_a_run_is_refused(place):
    """A second iterate on a run at work is told so, exit 4, and the first one goes on."""
    folder, recipe = place
    words = ["iterate", "--recipe", recipe, "--run", "busy", "--seed", "9"]
    first = subprocess.Popen(
        [SI_CTL, *words], cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline().startswith("run busy")
    second = si_ctl(*words, cwd=folder, check=False)
    refused(second, 4, "Another si-ctl is working on the run busy", str(first.pid))
    assert first.wait(500) == 0


@pytest.mark.slow
def test_ctrl_c_leaves_a_resumable_run(place):
    """Ctrl-C ends cleanly, says how to resume, leaves no process, and the resume completes."""
    folder, recipe = place
    words = ["iterate", "--recipe", recipe, "--run", "stopped", "--seed", "11"]
    first = subprocess.Popen(
        [SI_CTL, *words],
        cwd=folder,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in first.stdout:
        if line.startswith("it01/explore"):
            break
    os.killpg(first.pid, signal.SIGINT)
    out, err = first.communicate(timeout=300)
    assert first.returncode == 130, out + err
    assert "Traceback" not in err
    assert f"si-ctl iterate --recipe {recipe} --run stopped --seed 11" in out
    deadline = time.monotonic() + 120
    with contextlib.suppress(ProcessLookupError):  # the group has no process any more
        while time.monotonic() < deadline:
            os.killpg(first.pid, 0)
            time.sleep(0.2)
        raise AssertionError("processes were left")
    si_ctl(*words, cwd=folder)
    si_ctl(*words, "--store", str(folder / "si-runs"), cwd=folder)


def test_damaged_artefact_is_named_and_never_trained_on(place):
    """A flipped byte in committed rollouts stops what reads them, with address and digests."""
    folder, _ = place
    apart = folder / "damaged"
    apart.mkdir()
    recipe = str(tiny_recipe(apart, tiny_data(FolderStore(apart / "si-runs"))))
    si_ctl("iterate", "--recipe", recipe, "--iterations", "1", cwd=apart)
    store = apart / "si-runs"
    explored = artefacts(store, "sums-gr-k4-s0")["it01/explore"][0]
    victim = sorted((store / explored / "data").rglob("rollouts.parquet"))[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    done = si_ctl("iterate", "--recipe", recipe, "--strategy", "rp", cwd=apart, check=False)
    refused(done, 3, str(victim), "expected", "sha256", "--fresh")
    assert "it01/train" not in artefacts(store, "sums-rp-k4-s0")
    done = si_ctl("iterate", "--recipe", recipe, "--strategy", "rp", "--fresh", cwd=apart)
    assert "Report:" in done.stdout


def test_damaged_records_of_a_run_are_named(place):
    """A run's own record or entry that was cut short is named; nothing is guessed from it."""
    folder, recipe = place
    apart = folder / "cut"
    apart.mkdir()
    recipe = str(tiny_recipe(apart, tiny_data(FolderStore(apart / "si-runs"))))
    words = ("iterate", "--recipe", recipe, "--iterations", "1")
    si_ctl(*words, cwd=apart)
    run = apart / "si-runs" / "runs" / "sums-gr-k4-s0"
    for name in ("it01/train.json", "run-g01.json"):
        whole = (run / name).read_bytes()
        (run / name).write_bytes(whole[: len(whole) // 2])
        for command in (words, ("status", "sums-gr-k4-s0")):
            refused(si_ctl(*command, cwd=apart, check=False), 3, name, "is damaged")
        (run / name).write_bytes(whole)
    assert " kept " in si_ctl(*words, cwd=apart).stdout


def test_status_and_json(place):
    """status shows a tree of stages with figures, and the same as JSON; a wrong name is named."""
    folder, _ = place
    tree = json.loads(si_ctl("status", "sums-gr-k4-s0", "--json", cwd=folder).stdout)
    assert [i["iteration"] for i in tree["iterations"]] == [0, 1, 2]
    assert all(s["state"] == "done" for i in tree["iterations"] for s in i["stages"])
    text = si_ctl("status", "sums-gr-k4-s0", cwd=folder).stdout
    assert "iteration 2" in text and "examples of" in text
    assert "sums-gr-k4-s0" in si_ctl("status", cwd=folder).stdout
    refused(si_ctl("status", "nobody", cwd=folder, check=False), 3, "nobody", "sums-gr-k4-s0")


def test_a_report_shows_times_outside_of_the_store_only(place, tmp_path):
    """The page that `report` writes has the seconds of each stage; the artefact has not, since they
    are no part of what was computed."""
    folder, _ = place
    page = tmp_path / "page.html"
    done = si_ctl("report", "sums-gr-k4-s0", "--out", str(page), cwd=folder)
    assert str(page) in done.stdout
    address, _ = artefacts(folder / "si-runs", "sums-gr-k4-s0")["it02/report"]
    (kept,) = (folder / "si-runs" / address / "data").glob("*/report.html")
    assert '<div id="times">' in page.read_text()
    assert 'id="times"' not in kept.read_text()


@pytest.mark.slow
def test_compare_takes_all_seeds_of_a_strategy(place, tmp_path):
    """A strategy that several runs have, alike but for their seeds, means all: one group."""
    folder, recipe = place
    # What is computed is kept, other tests' runs are not.
    shutil.copytree(folder / "si-runs", tmp_path / "si-runs")
    shutil.rmtree(tmp_path / "si-runs" / "runs")
    folder = tmp_path
    si_ctl("iterate", "--recipe", recipe, cwd=folder)
    si_ctl("iterate", "--recipe", recipe, "--strategy", "vanilla", cwd=folder)
    si_ctl("iterate", "--recipe", recipe, "--seed", "1", cwd=folder)
    done = si_ctl("compare", "vanilla", "gr", "--json", cwd=folder)
    groups = json.loads(done.stdout)["groups"]
    assert [group["seeds"] for group in groups] == [[0], [0, 1]]
    assert groups[1]["name"] == "sums-gr-k4"
    si_ctl("iterate", "--recipe", recipe, "--k", "3", cwd=folder)
    refused(si_ctl("compare", "vanilla", "gr", cwd=folder, check=False), 3, "sums-gr-k3-s0")


def test_a_run_may_have_reports_of_several_kinds(place):
    """Another layout of the page makes another report beside the first, of the same artefacts."""
    folder, _ = place
    before = artefacts(folder / "si-runs", "sums-gr-k4-s0")
    for samples in ("7", "7", "9"):
        si_ctl("report", "sums-gr-k4-s0", "--set", f"report.samples={samples}", cwd=folder)
    after = artefacts(folder / "si-runs", "sums-gr-k4-s0")
    assert after.keys() - before.keys() == {"it02/report-2", "it02/report-3"}
    assert before.items() <= after.items()
    words = ("report", "sums-gr-k4-s0", "--set", "train.lr=1")
    refused(si_ctl(*words, cwd=folder, check=False), 3, "train.lr")


def test_match_steps_takes_the_other_runs_numbers(place):
    """train.match_steps with a run's name trains as many steps as that run did, each iteration."""
    folder, recipe = place
    si_ctl(
        *("iterate", "--recipe", recipe, "--strategy", "vanilla", "--run", "matched"),
        *("--set", "train.match_steps=sums-gr-k4-s0"),
        cwd=folder,
    )
    steps = {}
    for run in ("sums-gr-k4-s0", "matched"):
        tree = json.loads(si_ctl("status", run, "--json", cwd=folder).stdout)
        steps[run] = [
            stage["facts"]["steps"]
            for iteration in tree["iterations"]
            for stage in iteration["stages"]
            if stage["stage"] == "train"
        ]
    assert len(steps["matched"]) == 2
    assert steps["matched"] == steps["sums-gr-k4-s0"]


def test_schedules_and_pools(place):
    """Fixed data with pooled examples, previous start and levels from the first round run too."""
    folder, recipe = place
    done = si_ctl(
        *("iterate", "--recipe", recipe, "--run", "fixed"),
        *("--set", "data.schedule=fixed", "--set", "train.pool=all"),
        *("--set", "train.init=previous", "--set", "levels.k=0"),
        cwd=folder,
    )
    assert "Report:" in done.stdout
    refused(
        si_ctl(
            *("iterate", "--recipe", recipe, "--run", "unlevelled", "--set", "levels.k=0"),
            cwd=folder,
            check=False,
        ),
        3,
        "levels.k",
    )


def test_a_run_of_an_older_schema_stays_readable(tmp_path, monkeypatch):
    """A run whose verdicts have an older schema is reported as it is; going on with it is refused,
    with three ways out, and writes nothing."""
    recipe = str(tiny_recipe(tmp_path, tiny_data(FolderStore(tmp_path / "si-runs"))))
    with monkeypatch.context() as patch:
        patch.setitem(STAGES, "verify", replace(STAGES["verify"], schema=1))
        si_ctl("iterate", "--recipe", recipe, cwd=tmp_path)
    before = sorted((tmp_path / "si-runs").rglob("*.json"))
    done = si_ctl("iterate", "--recipe", recipe, cwd=tmp_path, check=False)
    refused(done, 3, "verify", "--run", "--fresh")
    assert sorted((tmp_path / "si-runs").rglob("*.json")) == before
    assert "Report:" in si_ctl("report", "sums-gr-k4-s0", "--force", cwd=tmp_path).stdout
    more = ("--set", "report.samples=5", "--out", "five.html")
    assert "Report:" in si_ctl("report", "sums-gr-k4-s0", *more, cwd=tmp_path).stdout
