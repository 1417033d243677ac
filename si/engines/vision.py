"""A cache of image features, for a frozen vision tower.

Training on re-balanced examples sees the same images many times: up to K copies of a query, several
epochs, several correct responses. Their features do not change while the tower is frozen. Each
query's images are computed separately, so cached features equal those computed again.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from si.engines.batches import Batch
from si.engines.hf import Prompt
from si.errors import RecipeError

CACHE_BYTES = 8 << 30
# The parts of a vision tower's output that models read. The rest is even larger.
READ = ("pooler_output", "deepstack_features")
ARGUMENT = "mm_encoder_outputs"  # a vision tower's output, as an argument of transformers' models


class FrozenVision:
    """Computes image features of a model whose vision tower is frozen, and caches them.

    Raises:
        RecipeError: if the tower trains, or the model does not accept features as an input.
    """

    def __init__(self, model: Any, dtype: torch.dtype, is_vision: Callable[[str], bool]):
        """Args:
        is_vision: whether a weight belongs to the vision tower or projector, by its name.
        """
        if ARGUMENT not in inspect.signature(model.forward).parameters:
            raise RecipeError(
                f"train.cache_vision is not supported for models of type {model.config.model_type}",
                f"transformers' class {type(model).__name__} does not accept {ARGUMENT}",
                "Remove it: features are then computed each time.",
            )
        trained = [n for n, p in model.named_parameters() if p.requires_grad and is_vision(n)]
        if trained:
            raise RecipeError(
                "train.cache_vision requires a frozen vision tower",
                f"{len(trained)} of its weights train, for example {trained[0]}",
            )
        self.model = model
        self.dtype = dtype
        self._kept: OrderedDict[tuple[bytes, ...], Any] = OrderedDict()
        self._bytes = 0

    def features(self, batch: Batch) -> dict[str, Any]:
        """Model inputs that replace the batch's images; empty if it has none."""
        device = self.model.device
        found = [
            self._features_of(example.row.images, prompt)
            for example, prompt in zip(batch.examples, batch.prompts, strict=True)
            if example.row.images
        ]
        if not found:
            return {}
        return {ARGUMENT: {"image": _each(_join(found), lambda tensor: tensor.to(device))}}

    @torch.no_grad()
    def _features_of(self, images: tuple[bytes, ...], prompt: Prompt) -> Any:
        if images in self._kept:
            self._kept.move_to_end(images)
            return self._kept[images]
        device = self.model.device
        known = inspect.signature(self.model.model.get_image_features).parameters
        given = {k: v.to(device) for k, v in prompt.features.items() if k in known}
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            made = self.model.model.get_image_features(**given, return_dict=True)
        kept = type(made)(**{name: made[name] for name in READ if name in made})
        kept = _each(kept, lambda tensor: tensor.cpu())
        self._kept[images] = kept
        self._bytes += _bytes(kept)
        while self._bytes > CACHE_BYTES and len(self._kept) > 1:
            self._bytes -= _bytes(self._kept.popitem(last=False)[1])
        return kept


def _join(parts: Sequence[Any]) -> Any:
    """Join the outputs for several queries: concatenate tensors and tuples (a tensor per image),
    and join lists (an entry per layer) entry by entry."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, tuple):
        return tuple(chain(*parts))
    if isinstance(first, list):
        return [_join(layer) for layer in zip(*parts, strict=True)]
    return type(first)(**{name: _join([part[name] for part in parts]) for name in first})


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with `change` applied to every tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_each(part, change) for part in value)
    return type(value)(**{name: _each(part, change) for name, part in value.items()})


def _bytes(value: Any) -> int:
    tensors: list[Tensor] = []
    _each(value, lambda tensor: tensors.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return sum(tensor.nbytes for tensor in tensors)
