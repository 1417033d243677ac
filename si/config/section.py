"""The base of every section of the configuration, and what of a section makes a key."""

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
    """Settings that belong together; unknown keys are errors, values do not change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True
    )

    def identity(self) -> dict[str, Any]:
        """The values as JSON, less those marked `LATER` that are at their defaults: what of the
        section is in a stage's key."""
        values = self.model_dump(mode="json", by_alias=True)
        for name, info in type(self).model_fields.items():
            value, key = getattr(self, name), info.alias or name
            if any(isinstance(mark, Later) for mark in info.metadata) and value == info.default:
                del values[key]
            elif isinstance(value, Section):
                values[key] = value.identity()
        return values
