"""Replay: another strategy on a run's stored samples, beside what the run trained on.

The stages' own functions run on the run's committed artefacts; their output is shown, never
committed. Nothing is sampled, so the outcome of draws that the run did not sample is unknown and
not shown.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from si.config.recipe import Recipe
from si.entry import Entry
from si.errors import DataError, RecipeError
from si.plugins import label
from si.records import HEAD, LEVELS, TAIL
from si.report.tables import Table, number, percent
from si.runs.record import generations, load_recipe
from si.runs.status import entries
from si.stages import STAGES, rebalance, resample
from si.stages.job import Job
from si.store.artifact import Artifact
from si.store.commit import Output, load_manifest
from si.store.keys import Ref, Spec
from si.store.port import Store
from si.strategies import rule_of


@dataclass(frozen=True)
class Replay:
    """A run's own examples and another strategy's, iteration by iteration.

    `iterations` hold `iteration`, `trained` and `replayed` (facts and metrics of the rebalance
    stage), `rounds` (how many rounds of samples the replayed strategy saw) and `draws`
    (what it would ask for but the run did not sample: facts, `share_by_level`; or None).
    """

    run: str
    own: str
    strategy: str
    iterations: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "own": self.own,
            "strategy": self.strategy,
            "iterations": self.iterations,
            "words": self.words,
        }

    @property
    def words(self) -> list[str]:
        """Notes for reading the tables."""
        notes = []
        if any(it["draws"] for it in self.iterations):
            notes.append(
                f"The run did not sample {self.strategy}'s second round, so the outcome of its "
                "draws is unknown: its examples come from the first round alone."
            )
        if len(self.iterations) > 1:
            notes.append(
                f"From iteration 2 on, the samples come from a policy trained with {self.own}; a "
                f"policy trained with {self.strategy} would have sampled differently."
            )
        return notes

    @property
    def tables(self) -> list[Table]:
        """Examples side by side, and the draws."""
        rows = []
        for it in self.iterations:
            for name, part in ((self.own, it["trained"]), (self.strategy, it["replayed"])):
                shares = part["metrics"]["examples"]["share_by_level"]
                rows.append(
                    [
                        str(it["iteration"]),
                        f"{name}, trained on" if part is it["trained"] else name,
                        number(part["facts"]["examples"]),
                        number(part["facts"]["solved"]),
                        percent(_share(shares, HEAD)),
                        percent(_share(shares, TAIL)),
                        *(percent(shares[level]) for level in LEVELS),
                        number(part["metrics"]["examples"]["gini"], 3),
                    ]
                )
        found = [
            Table(
                f"Examples of {self.run}, and of {self.strategy} on its samples",
                ["it.", "strategy", "examples", "queries", "head", "tail", *LEVELS, "Gini"],
                rows,
                "Levels are those of the run.",
            )
        ]
        asked = [it for it in self.iterations if it["draws"]]
        if asked:
            sources = ("own", "earlier", "reference", "plain")
            found.append(
                Table(
                    f"Draws that {self.strategy} would ask for",
                    ["it.", "samples", "queries", *LEVELS, *sources],
                    [
                        [
                            str(it["iteration"]),
                            number(it["draws"]["samples"]),
                            number(it["draws"]["queries"]),
                            *(percent(it["draws"]["share_by_level"][level]) for level in LEVELS),
                            *(number(it["draws"][f"samples_{source}"]) for source in sources),
                        ]
                        for it in asked
                    ],
                    "Samples by the level of their query, and by where their prefix comes from.",
                )
            )
        return found


def replay(store: Store, run: str, strategy: str, scratch: Path) -> Replay:
    """Another strategy on a run's stored verdicts, in every re-balanced iteration.

    A strategy with the run's own resampling rule sees both rounds, as the run did. Any other sees
    the first round, and its draws are shown.

    Args:
        run: the run's name.
        strategy: a name as in a recipe.
        scratch: an empty folder for the stages' files.

    Raises:
        RecipeError: for an unknown strategy.
        DataError: if no iteration of the run has been re-balanced yet.
    """
    try:
        strategy = Recipe(strategy=strategy).strategy
    except ValidationError as error:
        raise RecipeError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    recipe = load_recipe(store, run, generations(store, run)[-1])
    specs = {
        entry: Spec.load(store, address)
        for entry, address in entries(store, run).items()
        if Entry.parse(entry).step in ("explore", "verify", "rebalance", "policy")
    }
    asks, own = rule_of(strategy, "resample"), rule_of(recipe.strategy, "resample")
    found = []
    for entry, spec in specs.items():
        manifest = load_manifest(store, spec) if Entry.parse(entry).step == "rebalance" else None
        if manifest is None:
            continue
        trained = Artifact(store, manifest)
        t = spec.params["iteration"]
        both = asks == own
        inputs = {r: ref for r, ref in spec.inputs.items() if both or not r.endswith("-2")}
        settings = rebalance.Settings.of(recipe.model_copy(update={"strategy": strategy}))
        again = replace(spec, settings=settings.identity(), inputs=inputs)
        made = rebalance.rebalance(Job(store, again, _folder(scratch, f"{t}-rebalance")))(0)
        assert made is not None
        metrics = trained.json("metrics.json")
        found.append(
            {
                "iteration": t,
                "rounds": 1 + ("rollouts-2" in inputs),
                "trained": {"facts": dict(manifest.facts), "metrics": metrics},
                "replayed": {"facts": made.facts, "metrics": _metrics(made)},
                "draws": None
                if both or asks == "vanilla"
                else _draws(store, recipe, specs, spec, asks, scratch),
            }
        )
    if not found:
        raise DataError(
            f"No iteration of {run} has been re-balanced yet",
            f"in {store.url}",
            "Continue it first: the same `si-ctl iterate` command resumes.",
        )
    return Replay(run, recipe.strategy, strategy, found)


def _draws(
    store: Store,
    recipe: Recipe,
    specs: Mapping[str, Spec],
    spec: Spec,
    rule: str,
    scratch: Path,
) -> dict[str, Any]:
    """The draws that the resample stage would ask for in this iteration, by level and source."""
    t = spec.params["iteration"]
    inputs = {
        "data": spec.inputs["data"],
        "rollouts": spec.inputs["rollouts-1"],
        "verdicts": spec.inputs["verdicts-1"],
    }
    if rule == "gr" and recipe.gr.reference:
        inputs["policy"] = _ref(store, specs["it00/policy"])
    if rule == "gr" and recipe.data.schedule == "fixed":
        for earlier in range(1, t):
            for role, entry in (("rollouts", "explore"), ("verdicts", "verify")):
                ref = _ref(store, specs[str(Entry(earlier, entry))])
                inputs[f"earlier-{role}-{earlier}"] = ref
    settings = resample.Settings.of(recipe.model_copy(update={"strategy": rule}))
    params = resample.Params.model_validate(spec.params)
    asked = STAGES["resample"].spec(f"it{t:02d}-{label(rule)}", settings, params, inputs)
    made = resample.resample(Job(store, asked, _folder(scratch, f"{t}-resample")))(0)
    assert made is not None
    draws: Any = made.files["draws.parquet"]
    levels = Artifact.open(store, spec.inputs["levels"])
    table = levels.tables("levels.parquet", ["query_id", "level"])
    rows = pc.index_in(draws["query_id"].combine_chunks(), table["query_id"].combine_chunks())
    level = pc.index_in(table["level"].combine_chunks().take(rows), pa.array(LEVELS)).to_numpy()
    counts = np.bincount(level, draws["n"].to_numpy(), len(LEVELS))
    total = counts.sum()
    shares = {
        name: count / total if total else None
        for name, count in zip(LEVELS, counts.tolist(), strict=True)
    }
    return {**made.facts, "share_by_level": shares}


def _ref(store: Store, spec: Spec) -> Ref:
    return Artifact.open(store, spec.address).manifest.ref


def _folder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir()
    return folder


def _metrics(made: Output) -> dict[str, Any]:
    data = made.files["metrics.json"]
    assert isinstance(data, bytes)
    found: dict[str, Any] = json.loads(data)
    return found


def _share(shares: Mapping[str, float | None], levels: tuple[str, ...]) -> float | None:
    known = [share for level in levels if (share := shares[level]) is not None]
    return sum(known) if known else None
