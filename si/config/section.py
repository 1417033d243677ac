"""The base class of every section of the configuration, and what of a section is in a key."""

import difflib
import typing
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]


class Later:
    """Marks a setting that was added after artefacts had been stored without it.

    At its default a stage computes what it computed before the setting existed, so the setting is
    left out of the key there, and what was stored stays what it is. A setting whose default changes
    the result is not marked; the stage's schema version rises instead.
    """


LATER = Later()


class Section(BaseModel):
    """Settings that belong together. Unknown keys are errors; values are immutable. A docstring
    after a setting is its description."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    def identity(self) -> dict[str, Any]:
        """The values as JSON, without those marked `LATER` that are at their defaults: the part of
        the section that is in a stage's key."""
        values = self.model_dump(mode="json", by_alias=True)
        for name, info in type(self).model_fields.items():
            value, key = getattr(self, name), info.alias or name
            if any(isinstance(mark, Later) for mark in info.metadata) and value == info.default:
                del values[key]
            elif isinstance(value, Section):
                values[key] = value.identity()
        return values


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a setting's annotation names, alone or beside None; None for a value."""
    for kind in typing.get_args(annotation) or (annotation,):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """A message about a name that is not one of `known`, with the nearest one if it is near."""
    near = difflib.get_close_matches(name.lower(), known, 1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}"
