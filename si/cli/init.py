"""`si-ctl init`: a recipe for a model, a data set and GPUs."""

import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from si.cli.console import plural, say
from si.cli.data import data_sets, find_data
from si.cli.estimate import assumptions, clock
from si.cli.options import ForceOption, StoreOption, open_place
from si.config.draft import Draft, text
from si.config.loading import Settings, load_settings
from si.costs.assumptions import width_of
from si.costs.estimate import Total, estimate
from si.datasets.hub import NAME
from si.engines.sizes import size_of
from si.errors import DataError, RecipeError
from si.machine import gpus as machine
from si.machine.data_sheets import memory_of
from si.machine.files import check, write_files
from si.records import SPLITS
from si.report.tables import number
from si.store.commit import load_manifest
from si.store.keys import Spec

DEFAULT_MODEL = "Qwen/Qwen2-VL-7B-Instruct"
DEFAULT_GPU = "A100"

ModelOption = Annotated[
    str | None, typer.Option(help="Policy 0: a folder, or owner/name on the hub.  \\[asked]")
]
DataOption = Annotated[
    str | None,
    typer.Option(help="Address or name of an imported data set, or owner/name.  \\[asked]"),
]
GpusOption = Annotated[int | None, typer.Option(min=1, help="Number of GPUs.  \\[asked]")]
GpuOption = Annotated[str | None, typer.Option(help="Kind of GPU: A100, H100 ...  \\[asked]")]
PriceOption = Annotated[
    float | None,
    typer.Option(min=0, help="Price per GPU-hour, for the estimate; 0: unknown.  \\[asked]"),
]


def init(
    out: Annotated[
        Path, typer.Argument(metavar="FILE", help="Recipe to write.", show_default=True)
    ] = Path("recipe.yaml"),
    model: ModelOption = None,
    data: DataOption = None,
    gpus: GpusOption = None,
    gpu: GpuOption = None,
    price: PriceOption = None,
    strategy: Annotated[str, typer.Option(help="Strategy of the first run.")] = "gr",
    k: Annotated[int, typer.Option(min=1, help="Samples per query, first round.")] = 8,
    force: ForceOption = False,
    store: StoreOption = None,
) -> None:
    """Write a recipe for your model, data set and GPUs, and estimate its cost.

    Asks for what no option gives. The recipe is checked as `config check` does, and has a comment
    for every choice.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"{out} is not a YAML file", "", "Name it: si-ctl init recipe.yaml")
    check(out, force, "si-ctl init")
    answers = _answers(
        {"model": model, "data": data, "gpus": gpus, "gpu": gpu, "price": price}, store
    )
    kind = answers["gpu"]
    draft = Draft(
        answers["model"],
        _source(answers["data"], store),
        answers["gpus"],
        kind,
        memory_of(kind),
        answers["price"],
        strategy,
        k,
    )
    written = text(draft)
    settings = _checked(written, store)
    write_files({out: written.encode()}, force)
    say(f"{out}: run name {settings.recipe.run_name}")
    for line in (*_cost(settings, draft), *_next(out, store)):
        say(line)


# --- questions -------------------------------------------------------------------------------


def _answers(given: dict[str, Any], store: str | None) -> dict[str, Any]:
    """The options' values, and answers to questions for those that are missing.

    Raises:
        RecipeError: if any are missing and standard input is not a terminal.
    """
    missing = [name for name, value in given.items() if value is None]
    if missing and not sys.stdin.isatty():
        raise RecipeError(
            f"There is no terminal to ask for {', '.join(missing)}",
            "",
            "Give them: " + " ".join(f"--{name} {name.upper()}" for name in missing),
        )
    return given | {name: QUESTIONS[name](store) for name in missing}


def _ask_data(store: str | None) -> str:
    known = [made.spec.address for made in data_sets(open_place(store))[0]]
    hint = f" (in the store: {', '.join(known[:3])})" if known else ""
    return str(typer.prompt(f"Data set: an address, or owner/name on the hub{hint}", type=str))


QUESTIONS: dict[str, Callable[[str | None], Any]] = {
    "model": lambda _: typer.prompt("Model: a folder, or owner/name", default=DEFAULT_MODEL),
    "data": _ask_data,
    "gpus": lambda _: typer.prompt("Number of GPUs", default=machine.count() or 8, type=int),
    "gpu": lambda _: typer.prompt("Kind of GPU", default=machine.kind() or DEFAULT_GPU),
    "price": lambda _: typer.prompt("Price per GPU-hour (0: unknown)", default=0.0, type=float),
}


def _source(data: str, store: str | None) -> str:
    """What a user calls their data set, as `data.source` takes it.

    Raises:
        DataError: if it is a folder, is not in the store, or lacks a split.
    """
    where = f" --store {shlex.quote(store)}" if store else ""
    if data.startswith("hub:"):
        return data
    if Path(data).exists():
        raise DataError(
            f"{data} is not imported",
            "a run reads data sets from its store",
            f"Import it, and give the address: si-ctl data import {shlex.quote(data)}{where}",
        )
    if not data.startswith("data/") and NAME.fullmatch(data):
        return f"hub:{data}"
    stored = open_place(store)
    address = find_data(stored, data)
    manifest = load_manifest(stored, Spec.load(stored, address))
    splits = {shard.facts.get("split") for shard in manifest.shards} if manifest else set()
    if lacking := [split for split in SPLITS if split not in splits]:
        raise DataError(
            f"{address} has no {' and no '.join(lacking)} queries",
            "a run needs all three splits",
            f"Import it with --split train=80,dev=10,test=10{where}",
        )
    return address


# --- the recipe ------------------------------------------------------------------------------


def _checked(written: str, store: str | None) -> Settings:
    """The settings of a recipe's text, as every command resolves them.

    Raises:
        RecipeError: if it cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="si-init-") as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(written)
        try:
            return load_settings(path, {"place.store": store})
        except RecipeError as error:  # which names a file that is gone when it is read
            detail = error.detail.replace(str(path), "the options")
            raise RecipeError(error.headline.replace(str(path), "the options"), detail) from error


def _cost(settings: Settings, draft: Draft) -> Iterator[str]:
    """The estimated cost of a run from public figures, or the reason why there is no estimate."""
    recipe, place = settings.recipe, settings.place
    try:
        assumed = assumptions(recipe, place, None, {}, True)
    except RecipeError as error:
        yield f"No estimate: {error.headline}."
        return
    width = width_of(place, assumed.device, None, settings.requires)
    total = Total.of(estimate(recipe, assumed, width), place)
    rented = total.wall / 3600 * draft.gpus
    yield (
        f"Estimate for {plural(draft.gpus, 'GPU')} ({assumed.device}): {clock(total.wall)}, "
        f"{total.gpu_hours:.1f} GPU hours of work, {rented:.1f} GPU hours rented"
        + (f", which cost {number(round(rented * draft.price))}" if draft.price else "")
        + "."
    )
    yield "It is computed from public figures; the stages and every assumption: si-ctl estimate."
    size = size_of(draft.model, None)
    if size and draft.memory and 4 * size.weights > draft.memory * 10**9:
        yield (
            f"GPUs of {draft.memory} GB are small for {2 * size.weights / 1e9:.0f} GB of weights: "
            "samplers need SICTL_VLLM_MAX_MODEL_LEN=4096, and training may not fit."
        )


def _next(out: Path, store: str | None) -> Iterator[str]:
    """The commands to run next, ready to paste."""
    recipe = f"--recipe {shlex.quote(str(out))}" + (
        f" --store {shlex.quote(store)}" if store else ""
    )
    yield f"Cost by stage:       si-ctl estimate {recipe}"
    yield f"Check this machine:  si-ctl doctor {recipe}"
    yield f"Show what it does:   si-ctl iterate {recipe} --dry-run"
    yield f"Run it:              si-ctl iterate {recipe}"
