"""How fast a training was: seconds, tokens and memory, and the share of the GPU's peak (MFU).

None of it is part of what was trained; it lies beside the policy, as provenance.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from si.machine.data_sheets import peak
from si.machine.processes import peak_memory


class Step(NamedTuple):
    """Figures of one gradient step.

    Attributes:
        loss: mean over the batch's response tokens.
        norm: the gradient's, before clipping.
        seconds: from the batch's choice to the new weights.
        tokens: of prompts and responses, without padding.
        flops: as `Cost` counts them.
    """

    loss: float
    rate: float
    norm: float
    seconds: float = 0.0
    tokens: int = 0
    flops: float = 0.0


class Lengths(NamedTuple):
    """What an example's cost depends on: its tokens, those with a target, its pictures' values."""

    tokens: int
    targets: int
    pixels: int


@dataclass(frozen=True)
class Cost:
    """The FLOPs of a training step, as the mathematics asks for them.

    A matrix of n weights costs 2n a token forward, 2n to pass the gradient on, and 2n more for
    its own gradient if it trains: 6n, of a frozen one 4n (Kaplan et al. 2020, "Scaling Laws for
    Neural Language Models", section 2.1). Attention costs 12 * layers * width * s a token in
    a sequence of s (Chowdhery et al. 2022, "PaLM", appendix B, which also defines the
    share of peak, MFU: what is computed twice to save memory does not count). Here the head's
    products are counted for tokens with a target, since no others are computed, and a frozen
    vision tower's forward alone.

    Attributes:
        decoder, head, vision: numbers of weights (all, those that train).
        patch: picture values that the vision tower makes one patch of.
        layers, width: of the decoder.
    """

    decoder: tuple[int, int]
    head: tuple[int, int]
    vision: tuple[int, int]
    patch: int
    layers: int
    width: int

    @classmethod
    def of(cls, model: Any) -> "Cost":
        """The cost of a model that is whole in memory; an adapter's layers are inside it."""
        embedding = {id(model.get_input_embeddings().weight)}
        head = list(model.get_output_embeddings().parameters())
        decoder = [p for p in model.get_decoder().parameters() if id(p) not in embedding]
        known = embedding | {id(p) for p in (*head, *decoder)}
        vision = [p for p in model.parameters() if id(p) not in known]
        kernels = (m.weight[0].numel() for m in model.modules() if hasattr(m, "kernel_size"))
        text = model.config.get_text_config()
        layers, width = text.num_hidden_layers, text.hidden_size
        return cls(_size(decoder), _size(head), _size(vision), next(kernels, 1), layers, width)

    def flops(self, examples: Iterable[Lengths]) -> float:
        """FLOPs of a step over these examples, forward and backward."""
        total = 0.0
        for tokens, targets, pixels in examples:
            total += tokens * (4 * self.decoder[0] + 2 * self.decoder[1])
            total += targets * (4 * self.head[0] + 2 * self.head[1])
            total += 12 * self.layers * self.width * tokens**2
            total += pixels / self.patch * (2 * self.vision[0] + 4 * self.vision[1])
        return total


def _size(parameters: Iterable[torch.nn.Parameter]) -> tuple[int, int]:
    sizes = [(p.numel(), p.numel() if p.requires_grad else 0) for p in parameters]
    return sum(every for every, _ in sizes), sum(trained for _, trained in sizes)


def memory() -> int:
    """The most bytes that tensors of this process took on its GPU; without one, the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_memory()


def summary(
    steps: Sequence[Step], dtype: str, devices: int = 1, most: int | None = None
) -> dict[str, Any]:
    """A training's speed: `seconds` and `tokens` of every step, and over all of them
    `tokens_per_second` and `mfu` (null where the device's peak is not known).

    Args:
        devices: how many computed together.
        most: bytes of memory of the device that took most; this one's by default.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    seconds = sum(step.seconds for step in steps)
    most_of_it = peak(device, dtype)
    mfu = None
    if most_of_it and seconds:
        mfu = round(sum(step.flops for step in steps) / (seconds * devices * most_of_it), 4)
    return {
        "device": device,
        "devices": devices,
        "seconds": [round(step.seconds, 4) for step in steps],
        "tokens": [step.tokens for step in steps],
        "tokens_per_second": round(sum(step.tokens for step in steps) / max(seconds, 1e-9), 1),
        "mfu": mfu,
        "peak_memory_bytes": memory() if most is None else most,
    }
