"""Load the configuration: defaults < release < recipe file < environment < command line.

An unknown key is an error that suggests the nearest known key.
"""

import contextlib
import difflib
import os
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from si.config.place import Place
from si.config.recipe import Recipe
from si.config.release import WHOLE, Change, Release, leaves, look_up, merged, without_unknown
from si.config.requires import Requires
from si.config.section import section_of
from si.errors import RecipeError


@dataclass(frozen=True)
class Settings:
    """What a command uses.

    Attributes:
        requires: what the recipe requires of a cluster.
        changes: settings of the release for which this command gives another value.
        unknown: settings of the release that this version does not know, and leaves out.
    """

    recipe: Recipe
    place: Place
    requires: Requires
    changes: tuple[Change, ...] = ()
    unknown: tuple[str, ...] = ()


class _Layer(typing.NamedTuple):
    """Settings from one source. `edits`: it names a single entry of a mapping, and keeps the
    others."""

    tree: dict[str, Any]
    source: str
    edits: bool = False


def load(
    path: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    release: Release | None = None,
    assignments: Mapping[str, Any] | None = None,
) -> tuple[Recipe, Place]:
    """Recipe and place of `load_settings`."""
    found = load_settings(path, flags, environment, release, assignments)
    return found.recipe, found.place


def load_settings(
    path: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    release: Release | None = None,
    assignments: Mapping[str, Any] | None = None,
) -> Settings:
    """Resolve the settings: defaults < release < file < environment < assignments < flags.

    What comes after the release changes of its place what it allows; the rest is ignored, and
    listed in `Settings.changes`.

    Args:
        path: a YAML file with recipe keys, the place's under `place`, and `requires`.
        flags: dotted names to values of command line options; None values are ignored.
        environment: `SI_<KEY>`, with `__` between section and key (`SI_TRAIN__LR=1e-4`). The
            place's keys begin with `SI_PLACE__` (`SI_STORE` is short for `SI_PLACE__STORE`).
        release: a release of the chart.
        assignments: dotted names to values, from `--set`.

    Raises:
        RecipeError: if the file is unreadable, a key is unknown or a value is invalid.
    """
    tree: dict[str, Any] = {}
    origin: dict[str, str] = {}
    changes: dict[tuple[str, bool], Change] = {}
    unknown: list[str] = []
    if release is not None:
        place, unknown = without_unknown(release.place, Place)
        _merge(tree, {"place": place}, origin, "the release")
    environment = os.environ if environment is None else environment
    for layer in _layers(path, flags or {}, environment, assignments or {}):
        given, source, _ = layer
        if isinstance(given.get("place"), Mapping):
            given["place"] = _settle(tree, layer, release, changes)
        _merge(tree, given, origin, source)
    place = tree.pop("place", None) or {}
    requires = tree.pop("requires", None) or {}
    return Settings(
        _validate(Recipe, tree, origin, ""),
        _validate(Place, place, origin, "place."),
        _validate(Requires, requires, origin, "requires."),
        tuple(changes.values()),
        tuple(unknown),
    )


def _layers(
    path: Path | None,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    assignments: Mapping[str, Any],
) -> Iterator[_Layer]:
    """The settings of each source, the weakest first."""
    if path is not None:
        yield _Layer(_read_yaml(path), str(path))
    for variable in sorted(environment):
        if variable == "SI_STORE":
            dotted = "place.store"
        elif match := re.fullmatch(r"SI_((?!_)[A-Z0-9_]+)", variable):
            dotted = match.group(1).lower().replace("__", ".")
            if variable in RESERVED:
                continue
        else:
            continue
        yield _one(dotted, _scalar(environment[variable]), variable)
    for dotted, value in assignments.items():
        yield _one(dotted, value, "--set")
    for dotted, value in flags.items():
        if value is not None:
            yield _one(dotted, value, option(dotted))


def _one(dotted: str, value: Any, source: str) -> _Layer:
    edits = any(f"{whole}." in dotted for whole in WHOLE)
    return _Layer(nest(dotted, value), source, edits)


def _settle(
    tree: dict[str, Any],
    layer: _Layer,
    release: Release | None,
    changes: dict[tuple[str, bool], Change],
) -> dict[str, Any]:
    """The part of a layer's place that counts; its `resources` replace what `tree` has of them.

    Args:
        changes: receives what differs from the release, by name and whether it is allowed.
    """
    counts: dict[str, Any] = {}
    place = tree.setdefault("place", {})
    known = set(keys(Place))
    for name, value in leaves(layer.tree["place"], Place):
        before = look_up(place, name)
        whole = name.endswith(WHOLE) and not layer.edits
        after = value if whole else merged(before, value)
        if release is not None and name in known:
            decided = look_up(release.place, name)
            allowed = release.allows(name)
            if after != decided:
                change = Change(f"place.{name}", decided, after, layer.source, allowed)
                changes[name, allowed] = change
            else:
                changes.pop((name, allowed), None)
            if not allowed:
                continue
        section, _, key = name.rpartition(".")
        if whole and isinstance(holder := look_up(place, section), dict):
            holder.pop(key, None)
        _merge(counts, nest(name, value), {}, "")
    return counts


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
                # A recipe file may also contain the keys of `place` and `requires`.
                known = [*keys(Recipe), *(f"place.{key}" for key in keys(Place))]
                known += (f"requires.{key}" for key in keys(Requires))
                near = _nearest(name, known)
                hint = f"; did you mean {near}?" if near else ""
                lines.append(f"unknown key {name}{where}{hint}")
            else:
                message = issue["msg"].removeprefix("Value error, ")
                lines.append(f"{name}{where}: {message}" if name else message)
        raise RecipeError(
            f"The {prefix.rstrip('.') or 'recipe'} cannot be used: {lines[0]}",
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
        below = section_of(info.annotation)
        yield f"{prefix}{name}"
        if below is not None:
            yield from keys(below, f"{prefix}{name}.")


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file: the recipe's keys, and those of `place` and `requires`."""
    whole = Recipe.model_json_schema()
    for name, model in (("place", Place), ("requires", Requires)):
        part = model.model_json_schema()
        whole.setdefault("$defs", {}).update(part.pop("$defs", {}))
        whole["$defs"][model.__name__] = part
        whole["properties"][name] = {"$ref": f"#/$defs/{model.__name__}"}
    return whole
