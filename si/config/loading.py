"""Load the configuration: defaults < release < recipe file < environment < command line.

An unknown key is an error that suggests the nearest known key.
"""

import contextlib
import difflib
import os
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from si.config.place import Place
from si.config.recipe import Recipe
from si.errors import RecipeError


def load(
    path: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    release: Mapping[str, Any] | None = None,
    assignments: Mapping[str, Any] | None = None,
) -> tuple[Recipe, Place]:
    """Resolve recipe and place: defaults < release < file < environment < assignments < flags.

    Args:
        path: a YAML file with recipe keys, and the place's under `place`.
        flags: dotted names to values of command line options; None values are ignored.
        environment: `SI_<KEY>`, with `__` between section and key (`SI_TRAIN__LR=1e-4`). The
            place's keys begin with `SI_PLACE__` (`SI_STORE` is short for `SI_PLACE__STORE`).
        release: the place that a release of the chart has stored.
        assignments: dotted names to values, from `--set`.

    Raises:
        RecipeError: if the file is unreadable, a key is unknown or a value is invalid.
    """
    tree: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if release is not None:
        _merge(tree, {"place": release}, origin, "the release")
    if path is not None:
        _merge(tree, _read_yaml(path), origin, str(path))
    environment = os.environ if environment is None else environment
    for variable in sorted(environment):
        if variable == "SI_STORE":
            dotted = "place.store"
        elif match := re.fullmatch(r"SI_((?!_)[A-Z0-9_]+)", variable):
            dotted = match.group(1).lower().replace("__", ".")
            if variable in RESERVED:
                continue
        else:
            continue
        _merge(tree, nest(dotted, _scalar(environment[variable])), origin, variable)
    for dotted, value in (assignments or {}).items():
        _merge(tree, nest(dotted, value), origin, "--set")
    for dotted, value in (flags or {}).items():
        if value is not None:
            _merge(tree, nest(dotted, value), origin, option(dotted))
    place = tree.pop("place", None) or {}
    return _validate(Recipe, tree, origin, ""), _validate(Place, place, origin, "place.")


RESERVED = ("SI_SCRATCH", "SI_IMAGE")
# Command line options with a name other than their setting's.
OPTIONS = {"place.gpu_type": "--gpu", "place.price_per_gpu_hour": "--price"}


def option(dotted: str) -> str:
    """The command line option of a setting: `place.max_cost` -> `--max-cost`."""
    return OPTIONS.get(dotted, "--" + dotted.rpartition(".")[2].replace("_", "-"))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise RecipeError(
            f"The recipe file {path} cannot be read",
            error.strerror or str(error),
            "Pass a YAML file or the name of a shipped recipe to --recipe.",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe file {path} is not YAML", str(error)) from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise RecipeError(
            f"The recipe file {path} is not a mapping", f"expected keys and values, got {tree!r}"
        )
    return tree


def _scalar(text: str) -> Any:
    """A value parsed as YAML; `1e-4`, a string in YAML, becomes a number."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def nest(dotted: str, value: Any) -> dict[str, Any]:
    """`a.b`, 1 -> {"a": {"b": 1}}."""
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def assignment(text: str, option: str = "--set") -> tuple[str, Any]:
    """Parse `train.lr=1e-4` into a dotted name and a value (`null` gives None).

    Args:
        option: the option that `text` was given to, for the error.

    Raises:
        RecipeError: if there is no name or no value.
    """
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise RecipeError(
            f"{option} {text!r} is not NAME=VALUE", "", "Example: --set train.lr=1e-4"
        )
    if not value.strip():
        ways = (f"For null: {option} {name}=null", f"For an empty text: {option} \"{name}=''\"")
        raise RecipeError(f"{option} {text!r} has no value", "", ways)
    return name.strip(), _scalar(value)


def _merge(
    tree: dict[str, Any], more: Mapping[Any, Any], origin: dict[str, str], source: str, at: str = ""
) -> None:
    for key, value in more.items():
        dotted = f"{at}{key}"
        origin[dotted] = source
        if isinstance(value, Mapping):
            below = tree.get(key)
            if not isinstance(below, dict):
                below = tree[key] = {}
            _merge(below, value, origin, source, f"{dotted}.")
        else:
            tree[key] = value


Model_ = typing.TypeVar("Model_", bound=BaseModel)


def _validate(
    model: type[Model_], tree: dict[str, Any], origin: dict[str, str], prefix: str
) -> Model_:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines, ways = [], ["List every key and its meaning: si-ctl config schema"]
        for issue in error.errors(include_url=False):
            name = prefix + ".".join(
                str(part) for part in issue["loc"] if not str(part).startswith("function-")
            ).rstrip(".")
            source = origin.get(name, "")
            where = f" (from {source})" if source else ""
            if issue["type"] == "extra_forbidden":
                # A recipe file may also contain the keys of `place`.
                known = [*keys(Recipe), *(f"place.{key}" for key in keys(Place))]
                near = _nearest(name, known)
                hint = f"; did you mean {near}?" if near else ""
                lines.append(f"unknown key {name}{where}{hint}")
            else:
                message = issue["msg"].removeprefix("Value error, ")
                lines.append(f"{name}{where}: {message}" if name else message)
        raise RecipeError(
            f"The {'place' if prefix else 'recipe'} cannot be used: {lines[0]}",
            "\n".join(lines[1:]),
            tuple(ways),
        ) from None


def _nearest(name: str, known: list[str]) -> str | None:
    """The known key that an unknown one most likely means: `lr` or `train.learning_rate` ->
    `train.lr`."""
    section, _, last = name.rpartition(".")
    initials = "".join(word[:1] for word in last.split("_"))
    for wanted in (last, initials):
        same = [key for key in known if key.rpartition(".")[2] == wanted]
        near = [key for key in same if key.startswith(f"{section}.")] or same
        if len(near) == 1 and len(wanted) > 1:
            return near[0]
    return next(iter(difflib.get_close_matches(name, known, 1, 0.5)), None)


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings of a model."""
    for name, info in model.model_fields.items():
        below = _section(info.annotation)
        yield f"{prefix}{name}"
        if below is not None:
            yield from keys(below, f"{prefix}{name}.")


def _section(annotation: Any) -> type[BaseModel] | None:
    for kind in typing.get_args(annotation) or (annotation,):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file: the recipe's keys, and the place's under `place`."""
    whole = Recipe.model_json_schema()
    place = Place.model_json_schema()
    whole.setdefault("$defs", {}).update(place.pop("$defs", {}))
    whole["$defs"]["Place"] = place
    whole["properties"]["place"] = {"$ref": "#/$defs/Place"}
    return whole
