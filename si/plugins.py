"""Custom code that a recipe names as `package.module:name`: strategies, judges, samplers, trackers.

It runs in si-ctl's processes with all their rights. On a cluster it has to be installed in the
images that run it.
"""

import hashlib
import importlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from si.errors import RecipeError
from si.machine import packages
from si.untrusted import slug

T = TypeVar("T")

PATTERN = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"
WAYS_OUT = "Install the package where it runs, or add its folder to PYTHONPATH."


def is_custom(name: str) -> bool:
    """Whether a recipe's name refers to custom code, rather than to something built in."""
    return re.fullmatch(PATTERN, name) is not None


def label(name: str) -> str:
    """A name for paths and DNS labels: of `package.module:name` the part behind the colon.

    Lower case; every run of other characters than letters and digits becomes a hyphen.
    """
    return slug(name.rpartition(":")[2])


def load(kind: str, name: str, known: Mapping[str, str]) -> Any:
    """The object that a recipe names: one of `known`, or custom code.

    Its module is imported only now, so that callers stay quick to import.

    Args:
        kind: what the object is (strategy, judge, ...), for error messages.
        name: a key of `known`, or `package.module:name`.
        known: built-in names, each with its `package.module:name`.

    Raises:
        RecipeError: if the name is unknown, or the module cannot be imported.
    """
    module, colon, attribute = known.get(name, name).partition(":")
    if not colon:
        raise RecipeError(
            f"There is no {kind} {name!r}",
            f"known: {', '.join(known)}",
            "Use one of these, or custom code as package.module:name.",
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        advice = packages.advice(error) if isinstance(error, ImportError) else None
        raise RecipeError(
            f"The {kind} {name!r} cannot be imported", str(error), advice or WAYS_OUT
        ) from error


def load_class(kind: str, name: str, known: Mapping[str, str], base: type[T]) -> type[T]:
    """As `load`, for a class that derives from `base`.

    Raises:
        RecipeError: if it does not, or cannot be imported.
    """
    found = load(kind, name, known)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise RecipeError(
            f"The {kind} {name!r} does not derive from {base.__name__}",
            f"expected a subclass of {base.__module__}.{base.__qualname__}",
            f"Write class ...({base.__name__}) and name that class in the recipe.",
        )
    return found


def fingerprint(name: str) -> str:
    """SHA-256 of the file that holds custom code, as hex digits.

    It is part of the stage key, so that edited code gives a new artefact. Files that this one
    imports do not count.

    Args:
        name: `package.module:name`.

    Raises:
        RecipeError: if the module has no Python file, or its package cannot be imported.
    """
    module = name.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except ImportError as error:
        raise RecipeError(f"{name} cannot be imported", str(error), WAYS_OUT) from error
    if found is None or not found.origin or not found.origin.endswith(".py"):
        raise RecipeError(
            f"{name} cannot be found", f"no Python file for the module {module}", WAYS_OUT
        )
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()
