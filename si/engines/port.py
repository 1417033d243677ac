"""What an engine is: a sampler that answers, a trainer that learns."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from si.records import Request, Sampled, TrainingRow

if TYPE_CHECKING:
    from si.store.checkpoints import Checkpoints


class Sampler(Protocol):
    """A policy that answers. One object holds one loaded policy."""

    def sample(self, requests: Sequence[Request]) -> Iterator[list[Sampled]]:
        """For each request in turn, one continuation per seed.

        What is drawn for a seed depends on the request and, at most, on the
        other requests of the same call: never on earlier calls.
        """
        ...

    def decode(self, token_ids: Sequence[int]) -> tuple[str, list[int]]:
        """The ids as text without special tokens, and for each token the number of
        characters covered once it is there."""
        ...


class Trainer(Protocol):
    """Turns examples into a policy."""

    def train(
        self,
        rows: Sequence[TrainingRow],
        start: Path,
        base: Path,
        out: Path,
        settings: dict[str, Any],
        seed: int,
        checkpoints: "Checkpoints | None" = None,
    ) -> dict[str, Any]:
        """Train from the policy at `start` and write an HF folder to `out`.

        Args:
            rows: examples in stored order; the trainer shuffles them by `seed`.
            start: policy to begin from, an HF folder or a PEFT adapter folder.
            base: policy 0; the same as `start` unless that is an adapter.
            out: an empty folder to write the policy to. Where several processes train
                together, the first one writes it, the others leave theirs empty.
            settings: the recipe's `train` section, with `steps` (int or None) in it.
            seed: key for shuffling and initialisation.
            checkpoints: where to go on from and to save to, if the trainer can.

        Returns:
            Deterministic facts: steps, examples, tokens, dropped, losses (one a step). What
            depends on the machine (seconds, memory) goes under `provenance`: the stage puts it
            beside the artefact.
        """
        ...
