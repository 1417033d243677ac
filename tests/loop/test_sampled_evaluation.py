"""Evaluation by several answers a query, from the recipe to the report."""

import json
from pathlib import Path
from typing import Any

import pytest

from si.config.loading import load
from si.datasets.sources import fetch
from si.entry import Entry
from si.loop import conclude
from si.report.summary import collect
from si.run import Run
from si.runs.export import choose, export
from si.runs.record import begin
from si.runs.status import report_inputs
from si.runs.tracking import Reader
from si.store.artifact import Artifact
from si.store.folder import FolderStore
from tests.loop.inline import InlineCluster
from tests.loop.scripted import write_policy
from tests.loop.tiny import tiny_data, tiny_recipe


def run(store: FolderStore, folder: Path, **settings: Any) -> Run:
    policy = write_policy(folder / "scripted-policy", 0.6)
    source = fetch(store, str(policy)).spec.address
    path = tiny_recipe(folder, tiny_data(store), model={"source": source})
    recipe, _ = load(path, {"iterations": 1, **settings}, environment={})
    made = Run(recipe.run_name, recipe, store, InlineCluster(store))
    made.generation = begin(store, recipe.run_name, recipe)
    assert conclude(made) is not None
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[FolderStore, Run, Run]:
    """A run of vanilla and one of rp in the same store, both with three answers a query."""
    folder = tmp_path_factory.mktemp("sampled")
    store = FolderStore(folder / "si-runs")
    asked = {"evaluate.samples": 3}
    return (
        store,
        run(store, folder, strategy="vanilla", **asked),
        run(store, folder, strategy="rp", **asked),
    )


def seeds(store: FolderStore, run: Run, t: int, step: str) -> dict[tuple[str, int], int]:
    rollouts = Artifact(store, run.stages[Entry(t, step)]).tables("rollouts.parquet").to_pylist()
    return {(row["query_id"], row["sample"]): row["seed"] for row in rollouts}


def test_policies_are_compared_on_common_random_numbers(made: Any) -> None:
    """A query's answers have the same seeds in every iteration and strategy, and share none with
    the samples that measure its level or train the policy."""
    store, vanilla, rp = made
    zero = seeds(store, vanilla, 0, "evaluate-explore")
    assert zero == seeds(store, vanilla, 1, "evaluate-explore")
    assert zero == seeds(store, rp, 1, "evaluate-explore")
    assert len(set(zero.values())) == len(zero) == 3 * 16
    for t, step in ((0, "levels-explore"), (1, "explore")):
        assert not set(zero.values()) & set(seeds(store, vanilla, t, step).values())


def test_strategies_share_policy_zeros_scores(made: Any) -> None:
    """Policy 0 is evaluated once for all strategies."""
    _, vanilla, rp = made
    entry = Entry(0, "evaluate")
    assert vanilla.stages[entry].spec.address == rp.stages[entry].spec.address


def test_scores_are_the_verdicts(made: Any) -> None:
    """avg@3 is the share of correct verdicts; the report, the facts and the trackers repeat it."""
    store, vanilla, _ = made
    manifest = vanilla.stages[Entry(1, "evaluate")]
    scores = Artifact(store, manifest).json("scores.json")
    verdicts = Artifact(store, vanilla.stages[Entry(1, "evaluate-verify")])
    correct = verdicts.tables("verdicts.parquet")["correct"].to_pylist()
    assert sum(part["correct"] for part in scores.values()) == sum(correct)
    assert {part["samples"] for part in scores.values()} == {3}
    assert 0 < scores["test"]["accuracy"] < 1
    assert manifest.facts["accuracy_test"] == scores["test"]["accuracy"]
    batch = Reader(store).read("it01/evaluate", manifest)
    assert batch is not None
    values = batch.points[0].values
    assert values["avg_at_3/test"] == scores["test"]["accuracy"]
    assert values["pass_at_3/test"] >= values["avg_at_3/test"] and "accuracy/test" not in values


def test_pages_have_it_as_their_headline(made: Any, tmp_path: Path) -> None:
    """Report and model card name avg@3, and read the answers of each query as shares."""
    store, vanilla, _ = made
    page = Artifact(store, vanilla.stages[Entry(1, "report")])
    words = page.json("report.json")["words"]["Held-out accuracy"]
    assert words.startswith("Held-out avg@3 ")
    assert "avg@3 on test" in page.read("report.md").decode()
    html = page.read("report.html").decode()
    assert "3 sampled responses per query at temperature 1" in html
    assert "Avg@3 on test by level" in html and "greedy response" not in html
    summary = collect(store, report_inputs(store, vanilla.name))
    assert {round(3 * share) for share in summary.iterations[1].right["test"].values()} > {3}
    export(store, choose(store, vanilla.name, "last"), tmp_path / "policy")
    card = (tmp_path / "policy" / "README.md").read_text()
    assert "avg@3" in card and "3 sampled responses per query" in card


def test_another_temperature_is_another_artefact(made: Any, tmp_path: Path) -> None:
    """evaluate.temperature reaches the sampler, the keys and the scores; the recipe's own
    temperature, named, changes nothing."""
    _, vanilla, _ = made
    evaluated = []
    for temperature in (0.5, 1.0):
        store = FolderStore(tmp_path / str(temperature))
        settings = {"evaluate.samples": 3, "evaluate.temperature": temperature}
        stages = run(store, tmp_path, strategy="vanilla", **settings).stages
        evaluated.append(stages[Entry(0, "evaluate-explore")].spec)
        scores = Artifact(store, stages[Entry(0, "evaluate")]).json("scores.json")
        assert scores["dev"]["temperature"] == temperature
    cool, usual = evaluated
    assert (cool.params["temperature"], cool.params["round"], cool.params["k"]) == (0.5, 3, 3)
    assert usual.key == vanilla.stages[Entry(0, "evaluate-explore")].spec.key


def test_one_greedy_answer_leaves_no_trace(tmp_path: Path) -> None:
    """By default nothing of the settings is in specs or scores, so stored runs stay readable."""
    store = FolderStore(tmp_path / "si-runs")
    stages = run(store, tmp_path, strategy="vanilla").stages
    assert stages[Entry(0, "evaluate-explore")].spec.params["greedy"] is True
    params = stages[Entry(0, "evaluate")].spec.params
    assert params.keys() == {"iteration", "splits"}
    scores = Artifact(store, stages[Entry(0, "evaluate")]).json("scores.json")
    assert not {"samples", "pass_at"} & scores["dev"].keys()
    assert "samples" not in json.dumps(stages[Entry(1, "report")].spec.settings["evaluate"])
