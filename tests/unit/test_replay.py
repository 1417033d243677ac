"""Replay: another strategy on a run's stored verdicts, by the stages' own functions."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import si
from si.api import rollouts
from si.cli import app
from si.errors import RecipeError
from si.records import LEVELS
from si.rollouts.rebalance import rebalance
from si.runs.replay import replay
from si.store.artifact import Artifact
from si.store.folder import FolderStore
from tests.loop.running import artefacts, records, si_ctl
from tests.loop.tiny import tiny_data, tiny_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with runs of vanilla, tc and gr on the same data, the same queries each time."""
    folder = tmp_path_factory.mktemp("replay")
    data = tiny_data(FolderStore(folder / "si-runs"))
    words = ["iterate", "--recipe", str(tiny_recipe(folder, data))]
    for strategy, last in (("vanilla", "2"), ("tc", "1"), ("gr", "2")):
        more = ("--strategy", strategy, "--iterations", last)
        si_ctl(*words, *more, "--set", "data.schedule=fixed", cwd=folder)
    return folder / "si-runs"


def again(place: Path, run: str, strategy: str, scratch: Path) -> Any:
    return replay(FolderStore(place), f"sums-{run}-k4-s0", strategy, scratch)


def test_its_own_strategy_gives_its_own_examples(place: Path, tmp_path: Path) -> None:
    """A run replayed with its own strategy makes, to the figure, what it was trained on."""
    for run in ("vanilla", "tc", "gr"):
        scratch = tmp_path / run
        scratch.mkdir()
        for it in again(place, run, run, scratch).iterations:
            assert it["trained"] == it["replayed"]
            assert it["draws"] is None


def test_another_runs_first_iteration(place: Path, tmp_path: Path) -> None:
    """tc replayed on vanilla's first iteration is the first iteration of tc's own run: all
    strategies share the first round."""
    first = again(place, "vanilla", "tc", tmp_path).iterations[0]
    address = artefacts(place, "sums-tc-k4-s0")["it01/rebalance"][0]
    own = Artifact.open(FolderStore(place), address)
    assert first["replayed"]["metrics"] == own.json("metrics.json")
    assert first["replayed"]["facts"] == own.manifest.facts
    assert first["trained"]["facts"]["examples"] > first["replayed"]["facts"]["examples"]


def test_draws_are_those_that_were_asked_for(place: Path, tmp_path: Path) -> None:
    """gr replayed on vanilla shows the draws of gr's own run, and does not say what they bring."""
    found = again(place, "vanilla", "gr", tmp_path)
    first = found.iterations[0]
    address = artefacts(place, "sums-gr-k4-s0")["it01/resample"][0]
    facts = Artifact.open(FolderStore(place), address).manifest.facts
    assert {name: first["draws"][name] for name in facts} == facts
    assert sum(first["draws"]["share_by_level"][v] for v in LEVELS) == pytest.approx(1)
    assert first["replayed"]["facts"]["examples"] == first["trained"]["facts"]["examples"]
    assert "is unknown" in found.words[0]
    assert first["rounds"] == 1


def test_the_runs_own_second_round_counts(place: Path, tmp_path: Path) -> None:
    """gr+tc on a run of gr clips the successes of both rounds, since both were sampled."""
    for it in again(place, "gr", "gr+tc", tmp_path).iterations:
        assert it["rounds"] == 2 and it["draws"] is None
        assert it["replayed"]["metrics"]["successes"] == it["trained"]["metrics"]["successes"]


def test_a_foreign_second_round_does_not(place: Path, tmp_path: Path) -> None:
    """Without gr's resampling its second round is left out: tc sees the first round alone."""
    for it in again(place, "gr", "tc", tmp_path).iterations:
        assert it["rounds"] == 1
        assert it["replayed"]["facts"]["successes"] <= it["trained"]["facts"]["successes"]


def test_nothing_is_committed(place: Path, tmp_path: Path) -> None:
    """Replaying leaves the store as it was."""
    before = records(place)
    again(place, "vanilla", "gr+rp", tmp_path)
    assert records(place) == before


def test_unknown_strategy_is_named(place: Path, tmp_path: Path) -> None:
    """An unknown strategy is named with those there are."""
    with pytest.raises(RecipeError, match="unknown strategy 'best'"):
        again(place, "vanilla", "best", tmp_path)


def test_diagnose_and_rebalance_agree_with_the_run(place: Path) -> None:
    """A run is diagnosed with its measured levels, and re-balanced to the examples that it was
    trained on, choice by choice."""
    store = FolderStore(place)
    figures = si.diagnose("sums-tc-k4-s0", store=str(place)).figures
    address = artefacts(place, "sums-tc-k4-s0")["it01/rebalance"][0]
    own = Artifact.open(store, address)
    metrics = own.json("metrics.json")
    assert figures["levels"]["measured"] and figures["k"] == 4
    window = figures["windows"][0]
    assert window["queries_by_level"] == metrics["queries_by_level"]
    for name, value in metrics["successes"].items():
        assert window["successes"][name] == value, name
    made = rebalance(rollouts("sums-tc-k4-s0", store=str(place)), "tc", "jsonl").table
    wanted = own.tables("examples.parquet", ["query_id", "text"]).to_pylist()
    found = [row for row in made.to_pylist() if row["step"] == 1]
    assert sorted((r["query_id"], r["response"]) for r in found) == sorted(
        (r["query_id"], r["text"]) for r in wanted
    )


def test_pool_folders_are_read(place: Path) -> None:
    """A verify artefact's folder will do; another stage's is refused by name."""
    addresses = artefacts(place, "sums-gr-k4-s0")
    found = si.diagnose(place / addresses["it01/verify"][0]).figures
    assert found["k"] == 4 and not found["levels"]["measured"]
    second = si.diagnose(place / addresses["it01/verify-2"][0])
    assert "second round" in dict(second.words)["Note"]
    with pytest.raises(si.errors.DataError, match="holds no verdicts"):
        si.diagnose(place / addresses["it01/explore"][0])


def test_command(place: Path) -> None:
    """The command shows both side by side, and as JSON."""
    runner = CliRunner()
    words = ["replay", "vanilla", "--strategy", "ar", "--store", str(place)]
    shown = runner.invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "vanilla, trained on" in shown.output and "Draws that ar would ask for" in shown.output
    found = json.loads(runner.invoke(app, [*words, "--json"]).stdout)
    assert [it["iteration"] for it in found["iterations"]] == [1, 2]
