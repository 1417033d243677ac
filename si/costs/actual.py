"""Estimate against actual cost of a run, stage by stage.

Times are not part of any artefact, so a committed report has none of this. A copy of the page
outside the store shows it.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from si.config.place import Place
from si.config.recipe import Recipe
from si.costs.assumptions import CPU, published, read_config, width_of
from si.costs.estimate import Step, estimate
from si.datasets.dataset import Dataset
from si.datasets.sources import SLICES, dataset, policy
from si.embedded import EMBEDDED_LEVELS, EMBEDDED_POLICY
from si.entry import Entry
from si.errors import DataError, RecipeError
from si.machine.data_sheets import gpu_of
from si.report.tables import Table, number
from si.run import WISH
from si.runs.record import generations, load_recipe
from si.runs.usage import HOUR
from si.store.artifact import Artifact
from si.store.port import Store


def config_of(store: Store, recipe: Recipe) -> Mapping[str, Any] | None:
    """config.json of the recipe's model, from a local folder or from the store."""
    source = recipe.model.source
    found = read_config(EMBEDDED_POLICY if source == "embedded" else Path(source))
    if found is None and not Path(source).is_dir():
        with suppress(RecipeError, DataError):
            base = Artifact(store, policy(store, source, None))
            found = json.loads(base.read("config.json"))
    return found


def sizes_of(store: Store, recipe: Recipe) -> dict[str, Any] | None:
    """The size of the recipe's data set, if it is the embedded one or lies in the store."""
    size: dict[str, int]
    if recipe.data.source in EMBEDDED_LEVELS:
        from si.embedded.sets import SETS

        size = SETS[recipe.data.source].sizes(SLICES)
        stored = {}
    else:
        try:
            data = Dataset(Artifact(store, dataset(store, recipe.pick(*WISH), None)))
        except (RecipeError, DataError):
            return None
        size = {split: data.size(split) for split in ("train", "dev", "test")}
        stored = {"data_bytes": sum(blob.size for blob in data.artifact.blobs())}
    limit = recipe.evaluate.limit
    held = sum(min(size[split], limit or size[split]) for split in recipe.evaluate.splits)
    return {"queries": size["train"], "held_out": held, **stored}


FIGURES = ("made", "tokens", "hours", "wall", "bytes", "cost")
Figures = dict[str, float]
MEGABYTE = 1_000_000


class Costs(NamedTuple):
    """The cost of a run's completed iterations, by kind of stage.

    Attributes:
        estimated, actual: by stage's name, each with `made` (samples or examples), `tokens`
            (sampled), `hours` (of GPUs; of workers if there are none), `wall` (seconds),
            `bytes`, `cost`.
        begun: the same for an incomplete iteration.
        on: the kind of GPU, or `cpu`.
        why: the reason if there is no estimate.
    """

    estimated: dict[str, Figures]
    actual: dict[str, Figures]
    begun: Figures
    on: str
    why: str

    def to_json(self) -> dict[str, Any]:
        return self._asdict()

    @property
    def words(self) -> str:
        """Both totals in a sentence."""
        took, unit = total(self.actual), "worker hours" if self.on == CPU else "GPU hours"
        text = f"The completed iterations took {took['hours']:.3g} {unit} on {self.on}"
        if took["cost"]:
            text += f" and cost {took['cost']:,.2f}"
        if not self.estimated:
            return f"{text}. No estimate is available: {self.why}"
        foreseen = total(self.estimated)
        ratio = took["hours"] / foreseen["hours"] if foreseen["hours"] else 0
        return f"{text}: {ratio:.2f} times the {foreseen['hours']:.3g} of the estimate."

    @property
    def table(self) -> Table:
        """Estimate against actual, one row per stage."""
        rows = []
        names = list(dict.fromkeys((*self.actual, *self.estimated)))
        parts = [(name, self.estimated.get(name), self.actual.get(name)) for name in names]
        parts.append(("all", total(self.estimated), total(self.actual)))
        for name, foreseen, took in parts:
            shown = [
                [_shown(part, figure, digits) for part in (took, foreseen)]
                for figure, digits in zip(FIGURES, (0, 0, 3, 0, 1, 2), strict=True)
            ]
            rows.append([name, *(f"{now} ({then})" if then else now for now, then in shown)])
        unit = "worker hours" if self.on == CPU else "GPU hours"
        columns = ["samples or examples", "tokens", unit, "wall seconds", "MB", "cost"]
        begun = self.begun["hours"]
        return Table(
            "Cost by stage: actual, and in brackets the estimate",
            ["stage", *columns],
            rows,
            "Tokens are sampled ones. The estimate uses public figures, not this run's (si-ctl "
            "estimate --calibrate does that). Actual: all attempts that recorded their times, with "
            "those that lost a race. "
            + (f"An incomplete iteration took {begun:.3g} {unit} more." if begun else ""),
        )


def _shown(part: Figures | None, figure: str, digits: int) -> str:
    """A figure as text, bytes as megabytes; empty if it is zero or unknown."""
    value = (part or {}).get(figure, 0.0) / (MEGABYTE if figure == "bytes" else 1)
    return number(value if digits else round(value), digits) if value else ""


def costs(store: Store, run: str, place: Place, tree: Mapping[str, Any]) -> Costs:
    """Estimate by public figures, and actual cost, of the completed iterations.

    Args:
        tree: the run as returned by `si.runs.status.status`.
    """
    recipe = load_recipe(store, run, generations(store, run)[-1])
    stages = [stage for it in tree["iterations"] for stage in it["stages"]]
    done = sum(s["stage"] == "evaluate" and s["state"] == "done" for s in stages) - 1
    recipe = recipe.model_copy(update={"iterations": max(1, done)})
    known = next((gpu for gpu in map(gpu_of, tree["spent"]["gpus"]) if gpu), None)
    if known and not place.gpu_type:
        place = place.model_copy(update={"gpu_type": known.name})
    on, why, estimated = known.name if known else CPU, "", dict[str, Figures]()
    try:
        if isinstance(recipe.train.match_steps, str):
            raise RecipeError("its number of gradient steps comes from another run")
        if on == CPU and recipe.model.source != "embedded":
            raise RecipeError("the figures are for GPUs, but the run was on a CPU")
        assumed = published(recipe, place, {}, config_of(store, recipe), sizes_of(store, recipe))
        if (assumed.device == CPU) != (on == CPU):
            raise RecipeError(f"the figures are for {assumed.device}, but the run was on {on}")
        for step in estimate(recipe, assumed, width_of(place, assumed.device, None)):
            _add(estimated, step.entry, foreseen(step, place, on))
    except RecipeError as error:
        why = error.headline
    actual: dict[str, Figures] = {}
    begun: dict[str, Figures] = {}
    # An artefact that several entries point to was computed once.
    for stage in reversed({stage["address"]: stage for stage in reversed(stages)}.values()):
        whole = Entry.parse(stage["entry"]).t <= done
        _add(actual if whole else begun, stage["entry"], taken(stage, place, on))
    return Costs(estimated, actual, total(begun), on, why)


def _add(table: dict[str, Figures], entry: str, figures: Figures) -> None:
    name = Entry.parse(entry).step
    table[name] = total({"": table.get(name, {}), "more": figures})


def total(table: Mapping[str, Figures]) -> Figures:
    """Sums over stages."""
    return {name: sum(part.get(name, 0.0) for part in table.values()) for name in FIGURES}


def foreseen(step: Step, place: Place, on: str) -> Figures:
    """A step's estimated figures, for comparison."""
    sampled = step.stage == "explore"
    return {
        "made": step.samples if sampled else step.examples if step.stage == "train" else 0.0,
        "tokens": step.tokens if sampled else 0.0,
        "hours": step.device_seconds / HOUR if step.on_gpu or on == CPU else 0.0,
        "wall": step.wall,
        "bytes": step.bytes,
        "cost": step.money(place),
    }


def taken(stage: Mapping[str, Any], place: Place, on: str) -> Figures:
    """The actual figures of a stage, from its `status`."""
    spent, facts = stage["spent"], stage["facts"]
    sampled, trained = stage["stage"] == "explore", stage["stage"] == "train"
    free = spent["seconds"] / HOUR if not spent["gpu_hours"] else 0.0
    return {
        "made": facts.get("samples" if sampled else "examples", 0) if sampled or trained else 0.0,
        "tokens": facts.get("tokens", 0) if sampled else 0.0,
        "hours": free if on == CPU else spent["gpu_hours"],
        "wall": spent["wall_seconds"],
        "bytes": spent["bytes"],
        "cost": spent["gpu_hours"] * place.price_per_gpu_hour + free * place.price_per_cpu_hour,
    }
