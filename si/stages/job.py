"""What a stage function sees: its settings, its inputs, a scratch folder. Nothing else."""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from si.errors import SiError
from si.store.artifact import Artifact
from si.store.commit import Output
from si.store.keys import Spec
from si.store.port import Store

# Does one shard of a stage. It is made once per worker (`StageFunction`), so that
# engines load once. None where another process of the same group has the output.
ShardFunction = Callable[[int], Output | None]


class Job:
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
    def settings(self) -> dict[str, Any]:
        """The recipe fields that this stage declared, by dotted name (`sampling`, `train`)."""
        return dict(self.spec.settings)

    @cached_property
    def params(self) -> dict[str, Any]:
        """What the loop handed in: iteration, round, k, slice."""
        return dict(self.spec.params)

    def has(self, role: str) -> bool:
        return role in self.spec.inputs

    def input(self, role: str) -> Artifact:
        """The input of that role, opened and held against its recorded content digest."""
        if role not in self.spec.inputs:
            raise SiError(f"Stage {self.spec.stage} reads {role!r}, which is none of its inputs")
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


StageFunction = Callable[[Job], ShardFunction]


def in_turn(do: ShardFunction, shards: Iterator[int]) -> Iterator[tuple[int, Output | None]]:
    """Shard by shard what a shard function makes.

    One that has a method `stream` does it itself, and may take the next shard before it has given
    back this one, so that an engine never runs empty.
    """
    stream = getattr(do, "stream", None)
    return stream(shards) if stream else ((shard, do(shard)) for shard in shards)
