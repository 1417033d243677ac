"""What a stage is: a row of the table of stages, and a module with the row's name.

The module `si.stages.NAME` holds `Settings`, `Params`, `Facts` and the stage function `NAME`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict

from si.config.recipe import Recipe
from si.config.section import LATER, Section
from si.plugins import fingerprint, is_custom
from si.stages.job import StageFunction
from si.store.keys import Ref, Spec


class Settings(Section):
    """What a stage reads of the recipe, and nothing else: part of its key."""

    code: Annotated[str | None, LATER] = None
    """SHA-256 of the file of custom code that the stage runs; None if it runs none."""

    @classmethod
    def of(cls, recipe: Recipe) -> "Settings":
        """A recipe's values for the stage: by default, its sections of the same names."""
        return cls(**{name: getattr(recipe, name) for name in cls.model_fields if name != "code"})


def code_of(name: str) -> str | None:
    """The digest of a recipe's custom code; None where the name is one of ours."""
    return fingerprint(name) if is_custom(name) else None


class Params(Section):
    """What the loop hands to a stage: part of its key."""

    generation: Annotated[int, LATER] = 1
    """The run's generation: what `--fresh` computes anew has another key."""


class Facts(Section):
    """What a stage says about its output, in figures that depend on the output alone."""

    model_config = ConfigDict(extra="allow")

    def describe(self) -> str:
        """The figures in a few words, for status and logs; empty if there is nothing to say."""
        return ""


@dataclass(frozen=True)
class Stage:
    """One row of the table of stages.

    Attributes:
        name: of the stage, its module, its function, its Job template and its script.
        schema: rises when the output changes for equal inputs; what was stored keeps its own.
        image: the kind of image that runs it.
        sharded: whether several workers share it.
        gpus: whether it computes on GPUs where there are some.
    """

    name: str
    schema: int = 1
    image: Literal["explore", "verify", "train"] = "verify"
    sharded: bool = False
    gpus: bool = False

    def _part(self, name: str) -> Any:
        return getattr(import_module(f"si.stages.{self.name}"), name)

    @property
    def function(self) -> StageFunction:
        """The stage function; importing it loads no engine."""
        return cast(StageFunction, self._part(self.name))

    @property
    def settings(self) -> type[Settings]:
        """What the stage reads of the recipe."""
        return cast(type[Settings], self._part("Settings"))

    @property
    def params(self) -> type[Params]:
        """What the loop hands to the stage."""
        return cast(type[Params], self._part("Params"))

    @property
    def facts(self) -> type[Facts]:
        """The stage's figures, and how they are described."""
        return cast(type[Facts], self._part("Facts"))

    def spec(
        self,
        name: str,
        settings: Section,
        params: Params,
        inputs: Mapping[str, Ref],
        shards: int = 1,
    ) -> Spec:
        """The stage with these settings, parameters and inputs, to be done or found done."""
        return Spec(
            self.name, name, settings.identity(), params.identity(), inputs, shards, self.schema
        )
