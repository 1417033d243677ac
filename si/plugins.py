"""Code of the user's own that a recipe names: `package.module:name`.

It runs as si-ctl itself does, with all its rights. On a cluster it has to be in the images.
"""

import hashlib
import importlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from si.errors import RecipeError

PATTERN = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"
WAYS_OUT = "Install what it needs where it runs, or name its folder in PYTHONPATH."


def is_own(name: str) -> bool:
    """Whether a name is one of the user's own code rather than of ours."""
    return re.fullmatch(PATTERN, name) is not None


def label(name: str) -> str:
    """A name as a part of a path or a DNS label: of own code, what stands behind the colon."""
    return re.sub(r"[^a-z0-9]+", "-", name.rpartition(":")[2].lower()).strip("-")


def load(kind: str, name: str, known: Mapping[str, str]) -> Any:
    """What a recipe names: one of `known`, or `package.module:name`.

    Imported here and now, so that the modules that ask stay light.

    Args:
        kind: what it is, for the error's words.
        known: name to `package.module:name`.

    Raises:
        RecipeError: if there is no such thing, or it cannot be imported.
    """
    module, colon, attribute = known.get(name, name).partition(":")
    if not colon:
        raise RecipeError(
            f"There is no {kind} {name!r}",
            f"known: {', '.join(known)}",
            "Name one of these, or one of your own as package.module:name",
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            f"The {kind} {name!r} cannot be imported", str(error), WAYS_OUT
        ) from error


def fingerprint(name: str) -> str:
    """SHA-256 of the file that own code is in: part of the stage key, so that what changed code
    computes is another artefact. What that file imports is not in it.

    Raises:
        RecipeError: if there is no such file.
    """
    module = name.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except ImportError as error:
        raise RecipeError(f"{name} cannot be imported", str(error), WAYS_OUT) from error
    if found is None or not found.origin or not found.origin.endswith(".py"):
        raise RecipeError(f"{name} cannot be found", f"no file of a module {module}", WAYS_OUT)
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()
