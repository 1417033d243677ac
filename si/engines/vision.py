"""What a frozen vision tower makes of pictures, computed once for each query's pictures.

A training on re-balanced examples sees the same pictures again and again: up to K copies of a
query, epochs, several right responses. Their features do not change while the tower is frozen.
Each query's pictures go through it by themselves, so what is kept is what would be computed again.
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

KEPT_BYTES = 8 << 30
# Of what a vision tower says, models read these; the rest is larger still.
READ = ("pooler_output", "deepstack_features")
ARGUMENT = "mm_encoder_outputs"  # what transformers' models take a vision tower's output as


class FrozenVision:
    """The features of pictures, for a model whose vision tower does not train.

    Raises:
        RecipeError: if it trains, or the model does not take features from outside.
    """

    def __init__(self, model: Any, dtype: torch.dtype, is_vision: Callable[[str], bool]):
        """Args:
        is_vision: whether a weight of that name is of the vision tower or projector.
        """
        if ARGUMENT not in inspect.signature(model.forward).parameters:
            raise RecipeError(
                f"train.cache_vision does not work with models of type {model.config.model_type}",
                f"transformers' class {type(model).__name__} takes no {ARGUMENT}",
                "Leave it out: pictures are then computed each time.",
            )
        trained = [n for n, p in model.named_parameters() if p.requires_grad and is_vision(n)]
        if trained:
            raise RecipeError(
                "train.cache_vision needs a frozen vision tower",
                f"{len(trained)} of its weights train, such as {trained[0]}",
            )
        self.model = model
        self.dtype = dtype
        self._kept: OrderedDict[tuple[bytes, ...], Any] = OrderedDict()
        self._bytes = 0

    def features(self, batch: Batch) -> dict[str, Any]:
        """Model inputs in the place of the batch's pictures; nothing where it has none."""
        device = self.model.device
        found = [
            self._of(example.row.images, prompt)
            for example, prompt in zip(batch.examples, batch.prompts, strict=True)
            if example.row.images
        ]
        if not found:
            return {}
        return {ARGUMENT: {"image": _each(_join(found), lambda tensor: tensor.to(device))}}

    @torch.no_grad()
    def _of(self, images: tuple[bytes, ...], prompt: Prompt) -> Any:
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
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= _bytes(self._kept.popitem(last=False)[1])
        return kept


def _join(parts: Sequence[Any]) -> Any:
    """Outputs for several queries as one: tensors end to end, tuples (a tensor for each picture)
    behind one another, lists (an entry for each layer) entry by entry."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, tuple):
        return tuple(chain(*parts))
    if isinstance(first, list):
        return [_join(layer) for layer in zip(*parts, strict=True)]
    return type(first)(**{name: _join([part[name] for part in parts]) for name in first})


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_each(part, change) for part in value)
    return type(value)(**{name: _each(part, change) for name, part in value.items()})


def _bytes(value: Any) -> int:
    tensors: list[Tensor] = []
    _each(value, lambda tensor: tensors.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return sum(tensor.nbytes for tensor in tensors)
