"""Sequence packing: several examples in one row, without padding or attention between them.

Each example keeps the positions that it has alone, including those of its images. Attention is our
own function over segments: torch's variable-length kernel on a GPU, one segment after the other
elsewhere. So nothing is computed between examples, and there is no mask.
(Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination".)
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from si.engines.families import Family
from si.engines.hf import Prompt, collate, positions
from si.errors import RecipeError

ATTENTION = "si_packed"  # the name of our function in transformers
HALF = (torch.float16, torch.bfloat16)


class Long(Protocol):
    """Anything with a length in tokens."""

    @property
    def length(self) -> int: ...


E = TypeVar("E", bound=Long)


def packs(examples: Sequence[E], room: int, world: int = 1) -> list[list[E]]:
    """Distribute examples over rows of at most `room` tokens, as evenly as their lengths allow.

    The number of rows is the smallest sufficient multiple of `world`. Examples go to the emptiest
    row, longest first (Graham's rule). A row may be empty; an example longer than `room` gets its
    own row.
    """
    ordered = sorted(examples, key=lambda example: -example.length)
    count = world * max(1, -(-sum(e.length for e in examples) // (room * world)))
    while True:
        rows: list[list[E]] = [[] for _ in range(count)]
        filled = [0] * count
        for example in ordered:
            emptiest = min(range(count), key=filled.__getitem__)
            rows[emptiest].append(example)
            filled[emptiest] += example.length
        if max(filled) <= room or count >= len(examples):
            return rows
        count += world


def lay_out(
    model: Any, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]]
) -> tuple[dict[str, Any], list[int]]:
    """Concatenate prompts with their responses into one row.

    Returns:
        Model inputs: `input_ids` int64 (1, tokens), `position_ids` (1, tokens) or (3, 1, tokens),
        the images' features, and the segments' boundaries; and the start of each response in the
        row.
    """
    alone = [collate([p], [r], 0) for p, r in zip(prompts, responses, strict=True)]
    ids = [part["input_ids"] for part in alone]
    places = [positions(model, part) for part in alone]
    dims = max(each.ndim for each in places)
    # For text without an image, positions are the same in all dimensions.
    places = [p if p.ndim == dims else p.expand(3, *p.shape) for p in places]
    ends = torch.tensor([0, *(part.shape[1] for part in ids)]).cumsum(0)
    inputs: dict[str, Any] = {"input_ids": torch.cat(ids, 1), "position_ids": torch.cat(places, -1)}
    for name in sorted({name for p in prompts for name in p.features}):
        inputs[name] = torch.cat([p.features[name] for p in prompts if name in p.features])
    longest = max(part.shape[1] for part in ids)
    inputs |= dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), ends.int())
    inputs |= {"max_length_q": longest, "max_length_k": longest}
    starts = [int(e) + len(p.ids) for e, p in zip(ends, prompts, strict=False)]
    return inputs, starts


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within the segments of one row; an attention function for transformers.

    Shapes: query (1, heads, tokens, width); key and value the same, possibly with fewer heads;
    `cu_seq_lens_q` (segments + 1). Returns (1, tokens, heads, width).
    """
    if cu_seq_lens_q is None:
        raise ValueError("packed attention requires cu_seq_lens_q, the segments' boundaries")
    grouped = key.shape[1] != query.shape[1]
    half = value.dtype
    if query.is_cuda and torch.is_autocast_enabled("cuda"):
        half = torch.get_autocast_dtype("cuda")
    if query.is_cuda and half in HALF and not dropout:
        from torch.nn.attention.varlen import varlen_attn

        # The kernel expects (tokens, heads, width).
        q, k, v = (t[0].transpose(0, 1).to(half).contiguous() for t in (query, key, value))
        ends, longest = cu_seq_lens_q, int(max_length_q or query.shape[2])
        done = varlen_attn(
            *(q, k, v, ends, ends, longest, longest),
            scale=scaling,
            window_size=(-1, 0),  # causal
            enable_gqa=grouped,
        )
        assert isinstance(done, Tensor)
        return done[None], None
    sizes: list[int] = cu_seq_lens_q.diff().tolist()
    parts = (torch.split(tensor, sizes, 2) for tensor in (query, key, value))
    each = [
        functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(each, 2).transpose(1, 2), None


def use_packed_attention(model: Any, family: Family) -> None:
    """Make the model's decoder attend within segments.

    Raises:
        RecipeError: if its attention is not known to be purely causal.
    """
    from transformers import AttentionInterface

    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if not family.causal or kinds != {"full_attention"}:
        raise RecipeError(
            f"train.packing is not supported for models of type {model.config.model_type}",
            "their attention is not known to be purely causal",
            "Remove train.packing, or describe the family: docs/how-to/custom-family.md",
        )
    AttentionInterface.register(ATTENTION, attend)
    part = next(key for key in model.config.sub_configs if getattr(model.config, key) is text)
    model.set_attn_implementation({part: ATTENTION})
