"""What an estimate assumes besides the recipe, each figure with its source.

`published` starts from public figures (`throughput.py`), `calibration.py` from your own run.
"""

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

from si.config.place import Place
from si.config.recipe import Recipe
from si.config.requires import Requires
from si.costs import throughput
from si.embedded import EMBEDDED_LEVELS
from si.engines.sizes import Size, size_of, unknown
from si.errors import RecipeError
from si.machine.data_sheets import GPUS, Gpu, gpu_of

CPU = "cpu"
USUAL = "A100"  # the default kind of GPU
SMALL = 100e6  # number of weights below which the GPUs' figures do not apply
GUESS = "assumed"


@dataclass(frozen=True)
class Assumptions:
    """Everything that is not in the recipe. Seconds are per device: a GPU, or a worker on a CPU.

    Attributes:
        queries: training queries of an iteration.
        held_out: queries of the splits that are scored.
        levels_known: the data contain their levels under this policy.
        pass_rate, spread: mean of the pass rates, and a + b of their Beta distribution: the
            smaller, the more queries are always correct or always incorrect.
        guided: the share by which a guided prefix closes the gap between a query's pass rate and 1.
        continued: the share of a response that a guided sample still has to generate.
        prompt: tokens of a question with its template; pictures: of its images.
        response: tokens of a first-round response; response_second: of a second-round one, with
            its prefix; response_scored: of a response to a held-out query.
        device: kind of GPU, or `cpu`.
        prefill, mfu: shares of the GPU's peak that prompts and training reach; 0 on a CPU, and if
            seconds were measured.
        prompt_seconds: per token of a query's prompt and images; token_seconds: per sampled
            token; trained_seconds: per token of an example, prompt or response.
        explore_start, train_start, verify_start: time until a worker is ready.
        verdict_seconds: per response, of one worker.
        stage_seconds: of the stages with one worker, which hardly depend on size.
        between: idle seconds between two stages.
        token_bytes: bytes per token of a stored response; verdict_bytes: of its verdict.
        policy_bytes: of a trained policy; base_bytes: of policy 0; data_bytes: of the data set.
        sources: the source of each figure, by name.
    """

    queries: float
    held_out: float
    levels_known: bool
    pass_rate: float
    spread: float
    guided: float
    continued: float
    prompt: float
    pictures: float
    response: float
    response_second: float
    response_scored: float
    device: str
    prompt_seconds: float
    token_seconds: float
    trained_seconds: float
    explore_start: float
    train_start: float
    verify_start: float
    verdict_seconds: float
    stage_seconds: float
    between: float
    token_bytes: float
    verdict_bytes: float
    policy_bytes: float
    base_bytes: float
    data_bytes: float
    prefill: float = 0.0
    mfu: float = 0.0
    sources: Mapping[str, str] = field(default_factory=dict)

    def but(self, given: Mapping[str, Any], source: str) -> "Assumptions":
        """A copy with other values and their source.

        Raises:
            RecipeError: for an unknown name, or a value of the wrong type.
        """
        check(given)
        check_measured(given)
        return replace(self, **given, sources={**self.sources, **dict.fromkeys(given, source)})

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "value": getattr(self, name), "source": self.sources.get(name, "")}
            for name in NAMES
        ]


NAMES = [f.name for f in fields(Assumptions) if f.name != "sources"]


def check(given: Mapping[str, Any]) -> None:
    """Raises:
    RecipeError: if a name is not an assumption, or its value is not a valid number.
    """
    for name, value in given.items():
        if name not in NAMES or name in ("device", "levels_known"):
            near = difflib.get_close_matches(name, NAMES, 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise RecipeError(
                f"--assume {name} is not an assumption of an estimate{hint}",
                ", ".join(n for n in NAMES if n not in ("device", "levels_known")),
            )
        number = isinstance(value, int | float) and not isinstance(value, bool)
        share = name in ("pass_rate", "guided", "continued", "prefill", "mfu")
        least = name in ("spread", "prefill", "mfu", "response")
        if (
            not number
            or not isfinite(value)
            or value < 0
            or (share and value > 1)
            or (least and not value)
        ):
            bounds = "between 0 and 1" if share else "0 or more"
            more = ", and not 0" if least else ""
            raise RecipeError(f"--assume {name}={value} is not a number {bounds}{more}")


def check_measured(given: Mapping[str, Any]) -> None:
    """Raises:
    RecipeError: for shares of a GPU's peak if seconds are measured: they would change nothing.
    """
    for name in sorted({"prefill", "mfu"} & given.keys()):
        raise RecipeError(
            f"--assume {name} has no effect when seconds are measured",
            "",
            "Set the seconds instead: --assume prompt_seconds=... or trained_seconds=...",
        )


NOTHING = Requires()


@dataclass(frozen=True)
class Width:
    """How many devices compute at once: GPUs that explore and train, or workers on a CPU; and
    workers that verify. `why` is the source of the numbers."""

    explore: int = 1
    train: int = 1
    verify: int = 1
    why: str = ""


def width_of(place: Place, device: str, asked: int | None, requires: Requires = NOTHING) -> Width:
    """The width of a place: of its cluster if its pods ask for GPUs, else of this machine.

    Args:
        asked: number of GPUs that the user chose, for both kinds of stage.
        requires: what the recipe requires: the width where nothing is known of the place.
    """
    here = place.workers or min(8, os.cpu_count() or 1)
    if device == CPU:
        return Width(here, 1, here, "workers on this machine")
    pods = place.kubernetes
    explore, train = (p.workers * p.gpus for p in (pods.explore, pods.train))
    verify = pods.verify.workers
    if asked:
        return Width(asked, asked, verify if explore else here, "--gpus")
    if explore or train:
        return Width(explore or 1, train or 1, verify, "the pods of place.kubernetes")
    if place.gpus:
        return Width(place.gpus, place.gpus, here, "place.gpus")
    explore, train = requires.explore.gpus, requires.train.gpus
    why = "the least that the recipe requires" if explore or train else GUESS
    return Width(explore or 1, train or 1, here, f"{why}; set it with --gpus")


# --- public figures ------------------------------------------------------------------------


def published(
    recipe: Recipe,
    place: Place,
    given: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    sizes: Mapping[str, Any] | None = None,
) -> Assumptions:
    """Public figures for a recipe at a place.

    Args:
        given: the user's assumptions, from which others follow.
        config: config.json of the model, if available.
        sizes: `queries`, `held_out` and `data_bytes` of the data set, if available.

    Raises:
        RecipeError: if model or GPU are unknown.
    """
    check(given)
    if recipe.model.source == "embedded" and not place.gpu_type:
        return embedded(recipe, given, sizes)
    size = size_of(recipe.model.source, config)
    if size is None:
        raise unknown(recipe.model.source)
    gpu = gpu_of(place.gpu_type or USUAL)
    if gpu is None:
        raise RecipeError(
            f"No figures are known for the GPU {place.gpu_type!r}",
            "known: " + ", ".join(g.name for g in GPUS),
            "Name the most similar one, or use a run's figures: --calibrate RUN",
        )
    if size.weights < SMALL:
        raise RecipeError(
            f"{recipe.model.source} is too small for the GPU figures: {size.weights:,} weights",
            "the figures are from models with several billion weights",
            "Use a finished run's figures: --calibrate RUN",
        )
    table: dict[str, tuple[Any, str]] = {
        # Of the embedded data, whose bytes are not known before they are made.
        "data_bytes": (throughput.EMBEDDED["data_bytes"], throughput.EMBEDDED_SOURCE),
        **_data(recipe, sizes),
        **_lengths(recipe),
        **_fixed(place),
        **_stored(recipe, size),
        "device": (gpu.name, "--gpu" if place.gpu_type else f"{GUESS}; set it with --gpu"),
    }
    share, source = throughput.training(gpu)
    sampled = throughput.sampling(gpu)
    table |= {"mfu": (share, source), "prefill": (sampled.prompts, sampled.source)}
    table |= {name: (value, "--assume") for name, value in given.items()}
    for name in ("response_second", "response_scored"):
        table.setdefault(name, (table["response"][0], "same as response"))
    rates = _rates(recipe, {name: value for name, (value, _) in table.items()}, size, gpu)
    table |= {name: entry for name, entry in rates.items() if name not in given}
    return _of(table)


def _of(table: Mapping[str, tuple[Any, str]]) -> Assumptions:
    values = {name: value for name, (value, _) in table.items()}
    return Assumptions(**values, sources={name: source for name, (_, source) in table.items()})


def embedded(
    recipe: Recipe, given: Mapping[str, Any], sizes: Mapping[str, Any] | None
) -> Assumptions:
    """The embedded policy on a CPU, as measured by this project."""
    check_measured(given)
    measured = {
        name: (value, throughput.EMBEDDED_SOURCE) for name, value in throughput.EMBEDDED.items()
    }
    table = measured | _data(recipe, sizes) | {"device": (CPU, "the embedded policy")}
    return _of(table | {name: (value, "--assume") for name, value in given.items()})


def _data(recipe: Recipe, sizes: Mapping[str, Any] | None) -> dict[str, tuple[Any, str]]:
    """The number of queries; a guess if the data set is not available."""
    source = recipe.data.source
    name = source.removeprefix("hub:").partition("@")[0]
    known = throughput.DATASETS.get(name)
    if sizes:
        found, why = dict(sizes), f"the data set {source}"
    elif known:
        splits = {"dev": known.dev, "test": known.test}
        limit = recipe.evaluate.limit
        held = sum(min(n, limit or n) for s, n in splits.items() if s in recipe.evaluate.splits)
        found = {"queries": known.train, "held_out": held, "data_bytes": known.bytes}
        why = known.source
    else:
        found, why = (
            {"queries": 2000, "held_out": 1000, "data_bytes": 0},
            f"{GUESS}: {source} is not available here",
        )
    levels = recipe.data.source in EMBEDDED_LEVELS and recipe.model.source == "embedded"
    table = {name: (value, why) for name, value in found.items()}
    if recipe.data.schedule == "fresh":
        table["queries"] = (recipe.data.slice_size, "data.slice_size")
    return table | {
        "levels_known": (levels, "the data contain them" if levels else "measured first")
    }


def _lengths(recipe: Recipe) -> dict[str, tuple[Any, str]]:
    limit = recipe.sampling.max_new_tokens
    picture = min(256, recipe.sampling.image_tokens or 256)
    return {
        "pass_rate": (throughput.PASS_RATE, throughput.FITTED),
        "spread": (throughput.SPREAD, throughput.FITTED),
        "guided": (0.0, f"{GUESS}: a guided sample is correct as often as a plain one"),
        "continued": (0.5, "the method: cuts are spread evenly over a response"),
        "prompt": (100.0, GUESS),
        "pictures": (float(picture), f"{GUESS}: one image of 448 x 448 pixels"),
        "response": (limit / 2, f"{GUESS}: half of sampling.max_new_tokens"),
    }


def _fixed(place: Place) -> dict[str, tuple[Any, str]]:
    cluster = place.kubernetes.explore.gpus or place.kubernetes.train.gpus
    pods = "docs/benchmarks.md: a no-op stage on a cluster"
    return {
        "explore_start": (120.0, f"{GUESS}: not measured on a GPU"),
        "train_start": (120.0, f"{GUESS}: not measured on a GPU"),
        "verify_start": (2.0, GUESS),
        "verdict_seconds": (1 / 60, "math-verify alone, on one core: 60 to 83 answers per second"),
        "stage_seconds": (10.0, GUESS),
        "between": (6.0, pods) if cluster else (1.0, GUESS),
    }


def _stored(recipe: Recipe, size: Size) -> dict[str, tuple[Any, str]]:
    lora, width = recipe.train.lora, 2 if recipe.train.dtype == "bfloat16" else 4
    policy = 4 * lora.r * size.lora if lora else width * size.weights
    return {
        "token_bytes": (throughput.EMBEDDED["token_bytes"], throughput.EMBEDDED_SOURCE),
        "verdict_bytes": (throughput.EMBEDDED["verdict_bytes"], throughput.EMBEDDED_SOURCE),
        "policy_bytes": (policy, "the adapter's weights" if lora else "the model's weights"),
        "base_bytes": (2 * size.weights, "the model's weights in bfloat16"),
    }


def _rates(
    recipe: Recipe, table: Mapping[str, Any], size: Size, gpu: Gpu
) -> dict[str, tuple[Any, str]]:
    """Seconds from FLOPs over (peak x share): 2 FLOPs per weight and token forward, 4 more in
    training, only 2 more for a frozen weight (Kaplan et al. 2020, section 2.1). Attention products
    and padding are not counted."""
    language = size.decoder + size.head + size.embedding
    sampled = throughput.sampling(gpu)
    prompt, pictures, response = table["prompt"], table["pictures"], table["response"]
    seen = pictures * size.patches * size.vision
    forward = 2 * ((prompt + pictures) * language + seen)
    lora, frozen = recipe.train.lora, recipe.train.freeze_vision
    weight, vision = (4, 2) if lora else (6, 2 if frozen else 6)
    whole = prompt + pictures + response
    flops = whole * (weight * size.decoder + (6 * lora.r * size.lora if lora else 0))
    flops += response * weight * size.head + vision * seen
    return {
        "prompt_seconds": (
            forward / max(1e-9, prompt + pictures) / (gpu.peak * table["prefill"]),
            "FLOPs / (peak x prefill)",
        ),
        "token_seconds": (language / sampled.passing, sampled.source),
        "trained_seconds": (flops / whole / (gpu.peak * table["mfu"]), "FLOPs / (peak x mfu)"),
    }


def read_config(folder: Path) -> dict[str, Any] | None:
    """config.json of a checkpoint folder; None if it is missing or unreadable."""
    try:
        found: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
        return found
    except (OSError, ValueError):
        return None
