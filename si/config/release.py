"""What a release of the chart decides on a cluster, and what of it a run may change."""

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel

from si.config.section import section_of

# Mappings that replace each other: half of one and half of another makes no sense.
WHOLE = (".resources", ".pod")


@dataclass(frozen=True)
class Release:
    """A release of the chart.

    Attributes:
        name: the release's name.
        place: the place that it has stored.
        allow: patterns of the place's settings that recipe files, environment and options may
            change, as in `kubernetes.*.workers`.
        version: version of the chart; empty if unknown.
    """

    name: str
    place: Mapping[str, Any]
    allow: tuple[str, ...] = ("*",)
    version: str = ""

    def allows(self, name: str) -> bool:
        """Whether a run may change a setting of the place, by its dotted name."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.allow)


class Change(NamedTuple):
    """A setting of the release for which a run gives another value, and whether it gets it."""

    name: str
    before: Any
    after: Any
    source: str
    allowed: bool

    def __str__(self) -> str:
        given = f"{self.name}: {self.after} ({self.source})"
        if self.allowed:
            return f"{given} instead of the release's {self.before}"
        return (
            f"{given} is ignored; the release sets {self.before} and does not allow a run to "
            "change it"
        )


def leaves(
    tree: Mapping[str, Any], model: type[BaseModel], at: str = ""
) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of the settings in a tree; a mapping that is a value stays whole."""
    for key, value in tree.items():
        info = model.model_fields.get(key)
        below = section_of(info.annotation) if info else None
        if below and isinstance(value, Mapping):
            yield from leaves(value, below, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def look_up(tree: Mapping[str, Any], dotted: str) -> Any:
    """The value at `a.b` of a tree; None if there is none."""
    value: Any = tree
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def merged(before: Any, given: Any) -> Any:
    """Two values of one setting: mappings join key by key, anything else is replaced."""
    if not isinstance(before, Mapping) or not isinstance(given, Mapping):
        return given
    return {**before, **{key: merged(before.get(key), value) for key, value in given.items()}}


def without_unknown(
    tree: Mapping[str, Any], model: type[BaseModel], at: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """A tree without keys that a model does not know, and their dotted names.

    A release may be newer or older than the program that reads it.
    """
    kept: dict[str, Any] = {}
    unknown: list[str] = []
    for key, value in tree.items():
        info = model.model_fields.get(key)
        if info is None:
            unknown.append(f"{at}{key}")
            continue
        below = section_of(info.annotation)
        if below and isinstance(value, Mapping):
            kept[key], more = without_unknown(value, below, f"{at}{key}.")
            unknown += more
        else:
            kept[key] = value
    return kept, unknown
