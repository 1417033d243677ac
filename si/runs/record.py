"""The record of a run: its recipe and its generations."""

import re

from si.config.recipe import Recipe
from si.errors import RunChanged
from si.store.commit import settle
from si.store.keys import canonical, read_record, sealed
from si.store.port import Store


def run_folder(name: str, generation: int) -> str:
    """The folder of a generation's entries; the first generation uses the run's folder."""
    return f"runs/{name}" if generation == 1 else f"runs/{name}/g{generation:02d}"


def generations(store: Store, name: str) -> list[int]:
    """Numbers of a run's generations, in order; empty if there is no such run."""
    prefix = f"runs/{name}"
    names = (address.removeprefix(f"{prefix}/") for address in store.list(prefix))
    found = (re.fullmatch(r"run-g(\d{2,})\.json", name) for name in names)
    return sorted(int(match.group(1)) for match in found if match)


def load_recipe(store: Store, name: str, generation: int) -> Recipe:
    """The recipe that a generation started with."""
    address = record_address(name, generation)
    return Recipe.model_validate(read_record(store, address, lambda raw: raw["recipe"]))


def record_address(name: str, generation: int) -> str:
    return f"runs/{name}/run-g{generation:02d}.json"


def begin(store: Store, name: str, recipe: Recipe, fresh: bool = False) -> int:
    """The generation to work on: the newest, if its recipe is this one, or a new one.

    Raises:
        RunChanged: if the recipe differs from the one that the run started with.
    """
    from si.config.recipe import differences

    known = generations(store, name)
    if known and not fresh:
        old = load_recipe(store, name, known[-1])
        changed = differences(old, recipe)
        if changed:
            raise changed_recipe(name, changed)
        return known[-1]
    generation = known[-1] + 1 if known else 1
    record = {"recipe": recipe.model_dump(mode="json"), "generation": generation}
    settle(store, record_address(name, generation), canonical(sealed(record)))
    return generation


def changed_recipe(name: str, changed: list[str]) -> RunChanged:
    """The error of a run that started with another recipe; `changed` is from `differences`."""
    return RunChanged(
        f"The run {name} was started with another recipe",
        "\n".join(changed),
        (
            "Give the changed recipe its own run name (it shares all equal artefacts): --run NAME",
            f"Start a new generation of {name}, computed again, deleting nothing: --fresh",
            "Or revert the change: the same command as before resumes the run.",
        ),
    )
