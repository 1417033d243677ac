"""What an engine is: a sampler that answers questions, or a trainer that produces the next policy.

A custom engine derives from `Sampler` or `Trainer` and is named in the recipe
(`sampling.engine` or `train.trainer`) as `package.module:Class`. Methods with a default are
optional abilities.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from si.config.recipe import Sampling, Train
from si.records import Request, Sampled, TrainingRow
from si.store.checkpoints import Checkpoints


@dataclass(frozen=True)
class PromptSettings:
    """How a question becomes a prompt. Sampling and training read the same values.

    Attributes:
        system_prompt: text of a system turn before the question; empty for none.
        image_tokens: limit of tokens per image; None for the processor's own limit.
        family: the model family, `auto` or `package.module:Class`.
    """

    system_prompt: str = ""
    image_tokens: int | None = None
    family: str = "auto"


def prompt_settings(sampling: Sampling, family: str = "auto") -> PromptSettings:
    """Those in the recipe's `sampling` section and `model.family`."""
    return PromptSettings(sampling.system_prompt, sampling.image_tokens, family)


@dataclass(frozen=True)
class TrainSettings:
    """Everything in the recipe that a trainer may read.

    Attributes:
        train: the recipe's `train` section. The loop has already acted on its `init`, `pool` and
            `match_steps`; here they are at their defaults and mean nothing. So is `deepspeed`
            unless `trainer` is `deepspeed`.
        steps: number of gradient steps; None for `train.epochs` passes over the examples.
        prompts: how a question becomes a prompt.
    """

    train: Train
    steps: int | None = None
    prompts: PromptSettings = PromptSettings()


@dataclass(frozen=True)
class Trained:
    """What a training reports beside the policy that it wrote.

    Attributes:
        steps: gradient steps taken.
        examples: training examples used.
        tokens: response tokens in one pass over the examples.
        dropped: examples left out because they were too long.
        losses: for each step, the mean loss per response token.
        learning_rates: for each step.
        grad_norms: for each step, before clipping.
        adapter: whether the policy is a PEFT adapter on policy 0.
        provenance: whatever depends on the machine (seconds, memory). It is stored beside the
            artefact and is not part of its content.
    """

    steps: int
    examples: int = 0
    tokens: int = 0
    dropped: int = 0
    losses: Sequence[float] = ()
    learning_rates: Sequence[float] = ()
    grad_norms: Sequence[float] = ()
    adapter: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that depends on the inputs alone, by name, as JSON values."""
        facts = asdict(self)
        del facts["provenance"]
        return {k: list(v) if isinstance(v, Sequence) else v for k, v in facts.items()}


class Sampler(ABC):
    """A policy that answers questions. One object holds one loaded policy."""

    @abstractmethod
    def __init__(self, policy: Path, base: Path, settings: Sampling, family: str = "auto"):
        """Load a policy.

        Args:
            policy: a Hugging Face folder, or a PEFT adapter folder.
            base: policy 0; differs from `policy` only if that is an adapter.
            settings: the recipe's `sampling` section; its temperature is 0 for greedy stages.
            family: the recipe's `model.family`.
        """

    @abstractmethod
    def sample(self, requests: Sequence[Request]) -> Iterator[list[Sampled]]:
        """For each request in turn, one continuation per seed.

        The continuation for a seed may depend on the request and on the other requests of the
        same call, never on earlier calls.
        """

    @abstractmethod
    def decode(self, token_ids: Sequence[int]) -> tuple[str, list[int]]:
        """The text of the ids without special tokens; and for each token, how many characters the
        ids up to and including it cover."""

    def stream(self, calls: Iterable[Sequence[Request]]) -> Iterator[list[list[Sampled]]]:
        """The results of `sample` for several calls in turn.

        Optional. Override it if the engine can start a call's requests while the last sequences
        of the call before are still running.
        """
        for requests in calls:
            yield list(self.sample(requests))

    def take_figures(self) -> dict[str, float]:
        """Performance figures since this was last called; stored as provenance. Optional."""
        return {}


class Trainer(ABC):
    """Turns examples into a policy."""

    @abstractmethod
    def train(
        self,
        rows: Sequence[TrainingRow],
        start: Path,
        base: Path,
        out: Path,
        settings: TrainSettings,
        seed: int,
        checkpoints: Checkpoints | None = None,
    ) -> Trained:
        """Train from the policy at `start` and write a Hugging Face folder to `out`.

        Args:
            rows: examples in stored order; the trainer shuffles them with `seed`.
            start: policy to begin from, a Hugging Face folder or a PEFT adapter folder.
            base: policy 0; the same as `start` unless that is an adapter.
            out: an empty folder for the policy. When several processes train together, the first
                one writes it and the others leave theirs empty.
            settings: the part of the recipe that training may depend on.
            seed: random seed for shuffling and initialisation.
            checkpoints: where to resume from and save to. Optional: a trainer that ignores it
                starts again after a crash.
        """
