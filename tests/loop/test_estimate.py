"""An estimate held against runs: which stages there are, how much they make, what they share."""

import json

import pytest

from si import resources
from si.config.place import Place
from si.costs.actual import costs
from si.costs.calibration import calibrate
from si.runs.status import status
from si.store.folder import FolderStore
from tests.loop.running import artefacts, si_ctl
from tests.loop.tiny import tiny_data, tiny_recipe

SHIPPED = sorted(path.stem for path in (resources.folder("jobs") / "recipes").glob("*.yaml"))
RUNS = ("gr", "vanilla", "rp")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with three runs of two iterations in one store, and the command of their recipe."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = str(tiny_recipe(folder, tiny_data(FolderStore(folder / "si-runs"))))
    for strategy in RUNS:
        si_ctl("iterate", "--recipe", recipe, "--strategy", strategy, cwd=folder)
    return folder, recipe


def actual(folder, run):
    store = FolderStore(folder / "si-runs")
    return costs(store, run, Place(), status(store, run)).actual


def estimated(folder, *words):
    return json.loads(si_ctl("estimate", "--json", *words, cwd=folder).stdout)


@pytest.mark.parametrize("strategy", RUNS)
def test_stages_are_those_of_the_run(runs, strategy):
    """An estimate names the entries that a run has, each once."""
    folder, recipe = runs
    words = ("--recipe", recipe, "--strategy", strategy, "--calibrate", f"sums-{strategy}-k4-s0")
    (run,) = estimated(folder, *words)["runs"]
    entries = [stage["entry"] for stage in run["stages"]]
    assert sorted(entries) == sorted(artefacts(folder / "si-runs", f"sums-{strategy}-k4-s0"))


def test_what_several_entries_point_to_was_made_once(runs):
    """With the same queries in each iteration their levels are one artefact, which every iteration
    names: estimate and costs count it once."""
    folder, recipe = runs
    fixed = ("--recipe", recipe, "--run", "fixed", "--set", "data.schedule=fixed")
    si_ctl("iterate", *fixed, "--strategy", "vanilla", cwd=folder)
    entries = artefacts(folder / "si-runs", "fixed")
    assert entries["it01/levels-explore"] == entries["it02/levels-explore"]
    words = ("--recipe", recipe, "--strategy", "vanilla", "--set", "data.schedule=fixed")
    (run,) = estimated(folder, *words, "--calibrate", "fixed")["runs"]
    foreseen = sum(s["samples"] for s in run["stages"] if s["entry"].endswith("/levels-explore"))
    assert actual(folder, "fixed")["levels-explore"]["made"] == foreseen == 4 * (24 + 16)


def test_what_is_shared_is_what_lies_at_one_address(runs):
    """The stages that an estimate counts once for two runs have one address in the store."""
    folder, recipe = runs
    gr, rp = (artefacts(folder / "si-runs", f"sums-{name}-k4-s0") for name in ("gr", "rp"))
    same = {entry for entry in gr.keys() & rp.keys() if gr[entry] == rp[entry]}
    words = ("--recipe", recipe, "--calibrate", "sums-gr-k4-s0", "--compare", "gr:k=4,rp:k=4")
    found = estimated(folder, *words)
    apart = sum(len(run["stages"]) for run in found["runs"])
    samples = sum(run["total"]["samples"] for run in found["runs"])
    once = {
        stage["entry"]: stage["samples"]
        for stage in found["runs"][0]["stages"]
        if stage["entry"] in same and stage["stage"] == "explore"
    }
    assert {"it00/evaluate", "it01/explore", "it01/verify"} <= same and apart
    assert found["together"]["samples"] == pytest.approx(samples - sum(once.values()))


@pytest.mark.parametrize("strategy", RUNS)
def test_counts_are_those_of_the_run(runs, strategy):
    """Calibrated by a run of gr, an estimate gives each strategy's samples exactly where they are
    fixed, and examples within a fifth on two dozen queries."""
    folder, recipe = runs
    words = ("--recipe", recipe, "--strategy", strategy, "--calibrate", "sums-gr-k4-s0")
    (run,) = estimated(folder, *words)["runs"]
    found = actual(folder, f"sums-{strategy}-k4-s0")
    samples, examples = (
        sum(s[what] for s in run["stages"] if s["entry"].endswith(f"/{name}"))
        for what, name in (("samples", "explore"), ("examples", "train"))
    )
    assert samples == found["explore"]["made"]
    assert abs(examples / found["train"]["made"] - 1) < 0.2


def test_a_calibration_is_of_the_run(runs):
    """Lengths and sizes that a run shows are exactly its own, and each names the run."""
    folder, _ = runs
    store = FolderStore(folder / "si-runs")
    found, recipe = calibrate(store, "sums-gr-k4-s0")
    assert (found.queries, found.held_out, found.device) == (12, 16, "cpu")
    took = actual(folder, "sums-gr-k4-s0")
    assert found.response == took["explore"]["tokens"] / took["explore"]["made"]
    assert 0 < found.pass_rate < 1 and found.token_seconds >= 0 and recipe.k == 4
    assert set(found.sources.values()) == {"run sums-gr-k4-s0"}


def test_a_pilot_foretells_a_larger_run(runs):
    """Of a calibration the rates are the run's, but how many queries there are is the recipe's."""
    folder, recipe = runs
    larger = ("--recipe", recipe, "--set", "data.schedule=fixed", "--set", "evaluate.limit=3")
    found = estimated(folder, *larger, "--calibrate", "sums-gr-k4-s0")
    known = {row["name"]: row for row in found["assumptions"]}
    assert (known["queries"]["value"], known["held_out"]["value"]) == (24, 6)
    assert "the data set" in known["queries"]["source"]
    assert known["token_seconds"]["source"] == "run sums-gr-k4-s0"


def test_another_model_is_not_calibrated_by(runs):
    """A run of one model or engine is no measure of another: refused, with ways out."""
    folder, _ = runs
    done = si_ctl("estimate", "--calibrate", "sums-gr-k4-s0", cwd=folder, check=False)
    assert done.returncode == 3 and "has no figures for another model.source" in done.stderr
    recipe = runs[1]
    words = ("--recipe", recipe, "--calibrate", "sums-gr-k4-s0", "--gpu", "A100")
    done = si_ctl("estimate", *words, cwd=folder, check=False)
    assert done.returncode == 3 and "another kind of GPU" in done.stderr


def test_the_page_shows_estimate_and_actual(runs):
    """The copy of the report outside of the store has a section about costs; the committed one, and
    so its address, has none."""
    folder, _ = runs
    page = (folder / "si-runs" / "reports" / "sums-gr-k4-s0.html").read_text()
    assert '<div id="costs">' in page and "The completed iterations took" in page
    address = artefacts(folder / "si-runs", "sums-gr-k4-s0")["it02/report"][0]
    (committed,) = (folder / "si-runs" / address).rglob("report.html")
    assert 'id="costs"' not in committed.read_text()


def test_without_a_store_it_says_so_and_makes_nothing(tmp_path):
    """In an empty folder the embedded recipe, and one whose data are nowhere, are estimated all the
    same: what is assumed of the data is said; no store is made."""
    done = si_ctl("estimate", "--compare", "vanilla:k=16,rp:k=8,gr:k=8", cwd=tmp_path)
    assert "side by side" in done.stdout and "all, in one store" in done.stdout
    words = ("--set", "model.source=Qwen/Qwen2-VL-7B-Instruct", "--set", "data.source=hub:me/mine")
    done = si_ctl("estimate", *words, "--set", "data.schedule=fixed", "--price", "2", cwd=tmp_path)
    assert "hub:me/mine is not available here" in done.stdout and "A100" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", [r for r in SHIPPED if r != "embedded"])
def test_shipped_recipes_are_estimated_offline(tmp_path, recipe):
    """For each shipped recipe of a real model there is an estimate without model, data or store, as
    wide as the recipe requires where nothing is known of the place."""
    found = estimated(tmp_path, "--recipe", recipe, "--price", "2")
    (run,) = found["runs"]
    assert run["total"]["gpu_hours"] > 1 and run["total"]["cost"] > 2
    assert found["width"]["explore"] == 1 and "the recipe requires" in found["width"]["why"]
    known = {row["name"]: row["value"] for row in found["assumptions"]}
    assert (known["queries"], known["held_out"]) == (2101, 901)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--compare", "rr:k=8"), "unknown strategy 'rr'"),
        (("--compare", "rp:k=0"), "k"),
        (("--compare", "rp:lr=1"), "neither k=NUMBER nor iterations=NUMBER"),
        (("--assume", "pas_rate=1"), "did you mean pass_rate"),
        (("--gpu", "H100"), "too small for the GPU figures"),
        (("--calibrate", "nothing"), "No run is called 'nothing'"),
    ],
)
def test_wrong_words_are_named(tmp_path, words, said):
    """What cannot be estimated is refused by name, without a traceback."""
    done = si_ctl("estimate", *words, cwd=tmp_path, check=False)
    assert done.returncode == 3 and said in done.stderr and "Traceback" not in done.stderr
