"""Training speed: seconds, tokens, memory, and the share of the GPU's peak FLOP/s (MFU).

None of it is part of the policy; it is stored beside it, as provenance.
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
        rate: learning rate.
        norm: gradient norm before clipping.
        seconds: from selecting the batch to updating the weights.
        tokens: tokens of prompts and responses, without padding.
        flops: as counted by `Cost`.
    """

    loss: float
    rate: float
    norm: float
    seconds: float = 0.0
    tokens: int = 0
    flops: float = 0.0


class Lengths(NamedTuple):
    """What an example's cost depends on: its tokens, those with a target, its images' values."""

    tokens: int
    targets: int
    pixels: int


class Parts(NamedTuple):
    """A model's weights by what is computed with them; `head` may be `embedding` itself."""

    embedding: list[torch.nn.Parameter]
    head: list[torch.nn.Parameter]
    decoder: list[torch.nn.Parameter]
    vision: list[torch.nn.Parameter]


def parts_of(model: Any) -> Parts:
    """The weights of a vision-language model; an adapter's layers are inside it. On the meta
    device as well, where they have sizes and no values."""
    embedding = [model.get_input_embeddings().weight]
    head = list(model.get_output_embeddings().parameters())
    inside = {id(p) for p in embedding}
    decoder = [p for p in model.get_decoder().parameters() if id(p) not in inside]
    language = inside | {id(p) for p in (*head, *decoder)}
    vision = [p for p in model.parameters() if id(p) not in language]
    return Parts(embedding, head, decoder, vision)


@dataclass(frozen=True)
class Cost:
    """The FLOPs that a training step requires mathematically.

    Per token, a matrix of n weights costs 2n forward, 2n to propagate the gradient, and 2n for its
    own gradient if it trains: 6n, or 4n if it is frozen (Kaplan et al. 2020, "Scaling Laws for
    Neural Language Models", section 2.1). Attention costs 12 * layers * width * s per token in a
    sequence of length s (Chowdhery et al. 2022, "PaLM", appendix B, which also defines MFU:
    recomputation to save memory does not count). The head is counted for tokens with a target
    only, because no other logits are computed, and of a frozen vision tower only the forward pass.

    Attributes:
        decoder, head, vision: numbers of weights: (all, trainable).
        patch: image values per patch of the vision tower.
        layers, width: number of layers and hidden size of the decoder.
    """

    decoder: tuple[int, int]
    head: tuple[int, int]
    vision: tuple[int, int]
    patch: int
    layers: int
    width: int

    @classmethod
    def of(cls, model: Any) -> "Cost":
        """The cost of a model that is completely in memory; an adapter's layers are part of it."""
        parts = parts_of(model)
        kernels = (m.weight[0].numel() for m in model.modules() if hasattr(m, "kernel_size"))
        text = model.config.get_text_config()
        layers, width = text.num_hidden_layers, text.hidden_size
        decoder, head, vision = _size(parts.decoder), _size(parts.head), _size(parts.vision)
        return cls(decoder, head, vision, next(kernels, 1), layers, width)

    def flops(self, examples: Iterable[Lengths]) -> float:
        """FLOPs of a step over these examples, forward and backward pass."""
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
    """Peak memory in bytes: of this process's tensors on its GPU, or of the process without one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_memory()


def summary(
    steps: Sequence[Step], dtype: str, devices: int = 1, most: int | None = None
) -> dict[str, Any]:
    """A training's speed: `seconds` and `tokens` of every step, and over all steps
    `tokens_per_second` and `mfu` (None if the device's peak is unknown).

    Args:
        devices: number of devices that trained together.
        most: peak memory in bytes, over all devices; by default this one's.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    seconds = sum(step.seconds for step in steps)
    limit = peak(device, dtype)
    mfu = None
    if limit and seconds:
        mfu = round(sum(step.flops for step in steps) / (seconds * devices * limit), 4)
    return {
        "device": device,
        "devices": devices,
        "seconds": [round(step.seconds, 4) for step in steps],
        "tokens": [step.tokens for step in steps],
        "tokens_per_second": round(sum(step.tokens for step in steps) / max(seconds, 1e-9), 1),
        "mfu": mfu,
        "peak_memory_bytes": memory() if most is None else most,
    }
