"""What a stage function sees: its settings, its inputs, a scratch folder. Nothing else."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from pydantic import ValidationError

from si.errors import RecipeError, SiError
from si.store.artifact import Artifact
from si.store.commit import Output
from si.store.keys import Spec
from si.store.port import Store

S = TypeVar("S")
P = TypeVar("P")

# Does one shard of a stage. It is made once per worker (`StageFunction`), so that
# engines load once. None where another process of the same group has the output.
ShardFunction = Callable[[int], Output | None]


class Job(Generic[S, P]):
    """One stage at work in one process.

    Settings and inputs that the stage's key does not hold cannot be reached from
    here, so no stage can depend on them.
    """

    def __init__(self, store: Store, spec: Spec, scratch: Path):
        self.store = store
        self.spec = spec
        self.scratch = scratch
        self._open: dict[str, Artifact] = {}

    @cached_property
    def settings(self) -> S:
        """What the stage reads of the recipe: the `Settings` of its module."""
        return cast(S, self._typed("Settings", self.spec.settings))

    @cached_property
    def params(self) -> P:
        """What the loop handed in: the `Params` of the stage's module."""
        return cast(P, self._typed("Params", self.spec.params))

    def _typed(self, name: str, values: Mapping[str, Any]) -> Any:
        kind = getattr(import_module(f"si.stages.{self.spec.stage}"), name)
        try:
            return kind.model_validate(dict(values))
        except ValidationError as error:
            raise RecipeError(
                f"Stage {self.spec.stage} cannot use the {name.lower()} of {self.spec.address}",
                str(error),
                "Was the run begun by another version of si-ctl? Use the version that began it, or "
                "begin the run again under another name.",
            ) from error

    def has(self, role: str) -> bool:
        return role in self.spec.inputs

    def input(self, role: str) -> Artifact:
        """The input of that role, opened and compared with its recorded content digest."""
        if role not in self.spec.inputs:
            raise SiError(f"Stage {self.spec.stage} reads {role!r}, which is not one of its inputs")
        if role not in self._open:
            self._open[role] = Artifact.open(self.store, self.spec.inputs[role])
        return self._open[role]

    def inputs(self, role: str) -> list[Artifact]:
        """All inputs of a numbered role (`verdicts-1`, `verdicts-2`), in order."""
        numbered = sorted(
            (int(name.rsplit("-", 1)[1]), name)
            for name in self.spec.inputs
            if name.rsplit("-", 1)[0] == role and name.rsplit("-", 1)[-1].isdigit()
        )
        return [self.input(name) for _, name in numbered]

    def folder(self, role: str) -> Path:
        """A local copy of a policy, every file checked; made once per process."""
        target = self.scratch / role
        if not target.exists():
            target.mkdir(parents=True)
            self.input(role).download(target)
        return target


StageFunction = Callable[[Job[Any, Any]], ShardFunction]


def in_turn(do: ShardFunction, shards: Iterator[int]) -> Iterator[tuple[int, Output | None]]:
    """Shard by shard what a shard function makes.

    One that has a method `stream` does it itself, and may take the next shard before it has given
    back this one, so that an engine never runs empty.
    """
    stream = getattr(do, "stream", None)
    return stream(shards) if stream else ((shard, do(shard)) for shard in shards)
