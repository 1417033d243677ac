"""`si-ctl doctor`: what is wrong with this machine, before a run finds out."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer

from si import __version__
from si.cli.console import say
from si.cli.options import JsonOption, RecipeOption, SetOption, StoreOption, resolve
from si.config.place import Place
from si.config.recipe import Recipe
from si.errors import RecipeError, SiError
from si.machine import gpus, packages
from si.machine.files import nearest
from si.store.folder import FolderStore
from si.store.open import open_store
from si.store.probe import probe

PYTHON = ((3, 11), (3, 14))  # the first that works, and the first that does not
DISK = 2.0  # GB that the embedded run and its libraries' caches need at most


class Line(NamedTuple):
    """One line of the diagnosis: what was looked at, whether it is fine, and what to do."""

    name: str
    ok: bool
    words: str
    ways_out: tuple[str, ...] = ()


def doctor(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that this machine has what a run needs.

    Looks at Python, the disk, GPUs, the recipe's engines and the store. Prints one line each,
    and what to do about a problem; exits with 1 if there is one.
    """
    computed, place = resolve(recipe, settings, {"place.store": store})
    lines = list(diagnose(computed, place))
    if as_json:
        typer.echo(json.dumps([line._asdict() for line in lines], indent=2))
    else:
        for line in lines:
            say(f"{'ok' if line.ok else 'PROBLEM':<8} {line.name:<8} {line.words}")
            for way in line.ways_out:
                say(f"{'':<17} {way}")
    if not all(line.ok for line in lines):
        raise typer.Exit(1)


def diagnose(recipe: Recipe, place: Place) -> Iterator[Line]:
    """One line for each thing that a run of this recipe needs on this machine."""
    yield python(sys.version_info[:2])
    yield disk(place)
    yield attempt("gpus", lambda: devices(place))
    for engine in sorted({recipe.sampling.engine, recipe.train.trainer} & packages.ENGINES.keys()):
        yield attempt("engine", lambda engine=engine: installed(engine))  # type: ignore[misc]
    yield attempt("store", lambda: commits(place))


def attempt(name: str, check: Callable[[], str]) -> Line:
    """A line from a check that returns words, or raises the problem."""
    try:
        return Line(name, True, check())
    except SiError as error:
        words = f"{error.headline}: {error.detail}" if error.detail else error.headline
        return Line(name, False, words, error.ways_out)


def python(version: tuple[int, ...]) -> Line:
    """Whether si-ctl supports this Python."""
    words = f"Python {version[0]}.{version[1]}, si-ctl {__version__}"
    (first, last) = PYTHON
    if first <= version < last:
        return Line("python", True, words)
    known = f"{first[0]}.{first[1]} to {last[0]}.{last[1] - 1}"
    way = f"Install si-ctl with Python {known}, for example: make PYTHON=python3.12 install"
    return Line("python", False, f"{words}: Python {known} is supported", (way,))


def disk(place: Place) -> Line:
    """Whether there is room where the run writes: its store, if that is a folder, or ./si-runs."""
    where = open_store(place)
    folder = (where.root if isinstance(where, FolderStore) else Path("si-runs")).absolute()
    free = shutil.disk_usage(nearest(folder)).free / 1e9
    words = f"{free:.1f} GB free for {folder}"
    if free >= DISK:
        return Line("disk", True, words)
    way = "Free some space, or choose another disk: --store FOLDER"
    return Line("disk", False, f"{words}; a run needs {DISK:g} GB and more", (way,))


def devices(place: Place) -> str:
    """The GPUs that a run uses."""
    there = gpus.count()
    if place.gpus and gpus.MASK not in os.environ and place.gpus > there:
        raise RecipeError(
            f"place.gpus asks for {place.gpus} GPUs, and this machine has {there}",
            "",
            (
                "Lower place.gpus.",
                "If a GPU is missing here: nvidia-smi shows what the driver sees.",
            ),
        )
    used = len(gpus.visible(place.gpus, os.environ))
    if not used:
        return "none; runs use the CPU"
    return f"{used} of {there} {gpus.kind() or 'of an unknown kind'}".rstrip()


def installed(engine: str) -> str:
    """The engine, if its packages are installed."""
    packages.check(f"The engine {engine}", packages.ENGINES[engine])
    return f"{engine} is installed"


def commits(place: Place) -> str:
    """The store, if it can be written and commits exactly once."""
    store: Any = open_store(place)
    if isinstance(store, FolderStore) and not store.root.exists():
        parent = nearest(store.root)
        if not os.access(parent, os.W_OK | os.X_OK):
            raise RecipeError(
                f"The store {store.url} cannot be created",
                f"no permission to write in {parent}",
                "Choose another folder: --store FOLDER",
            )
        return f"{store.url} does not exist yet, and can be created"
    probe(store)
    return f"{store.url} can be written, and commits exactly once"
