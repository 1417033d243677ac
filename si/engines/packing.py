"""Sequence packing: examples end to end in one row, without padding and without seeing each other.

Each example keeps the positions that it has alone, its pictures' included, and attends to itself
only. Attention is a function of our own, by segments: on a GPU torch's variable-length kernel,
elsewhere segment by segment. So nothing is computed, and no mask is held, between examples.
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

ATTENTION = "si_packed"  # what transformers calls our function
HALF = (torch.float16, torch.bfloat16)


class Long(Protocol):
    @property
    def length(self) -> int: ...


E = TypeVar("E", bound=Long)


def packs(examples: Sequence[E], room: int, world: int = 1) -> list[list[E]]:
    """Examples dealt to rows of at most `room` tokens, as evenly as the longest allow: a multiple
    of `world` rows, and as few as that takes. The longest goes first, each to the emptiest row
    (Graham's rule). A row may be empty; an example longer than `room` has one of its own.
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
    """Prompts with their responses in one row.

    Returns:
        Model inputs: `input_ids` int64 (1, tokens), `position_ids` (1, tokens) or
        (3, 1, tokens), the pictures' features, and where segments begin and end;
        and where each response begins in the row.
    """
    alone = [collate([p], [r], 0) for p, r in zip(prompts, responses, strict=True)]
    ids = [part["input_ids"] for part in alone]
    places = [positions(model, part) for part in alone]
    dims = max(each.ndim for each in places)
    # Text without a picture simply counts, in all dimensions alike.
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
    """Causal attention within the segments of one row, as transformers' attention functions.

    Shapes: query (1, heads, tokens, width), key and value of as many or fewer heads,
    `cu_seq_lens_q` (segments + 1); the answer (1, tokens, heads, width).
    """
    if cu_seq_lens_q is None:
        raise ValueError("packed attention needs to know where segments end")
    grouped = key.shape[1] != query.shape[1]
    half = value.dtype
    if query.is_cuda and torch.is_autocast_enabled("cuda"):
        half = torch.get_autocast_dtype("cuda")
    if query.is_cuda and half in HALF and not dropout:
        from torch.nn.attention.varlen import varlen_attn

        # (tokens, heads, width), as the kernel wants it.
        q, k, v = (t[0].transpose(0, 1).to(half).contiguous() for t in (query, key, value))
        ends, longest = cu_seq_lens_q, int(max_length_q or query.shape[2])
        done = varlen_attn(
            *(q, k, v, ends, ends, longest, longest),
            scale=scaling,
            window_size=(-1, 0),  # to all that came before
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


def use(model: Any, family: Family) -> None:
    """Have the model's decoder attend by segments.

    Raises:
        RecipeError: if its family is not known to attend causally and in no other way.
    """
    from transformers import AttentionInterface

    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if not family.causal or kinds != {"full_attention"}:
        raise RecipeError(
            f"train.packing is not known to be right for models of type {model.config.model_type}",
            "their decoders may attend in other ways than causally over all that came before",
            "Leave train.packing out, or describe the family: docs/how-to/custom-family.md",
        )
    AttentionInterface.register(ATTENTION, attend)
    part = next(key for key in model.config.sub_configs if getattr(model.config, key) is text)
    model.set_attn_implementation({part: ATTENTION})
