"""What si-ctl needs to know about a model family, and what it guesses for an unknown one.

Engines ask transformers for most of what differs between models: decoder and output head (what
trains, where LoRA goes), whether the model computes multi-dimensional positions, chat template and
processor. The rest is here. This module does not import torch; models, tokenizers and processors
are passed in.
"""

import re
from typing import Any, ClassVar

from si.errors import RecipeError

# Names of tokens and of config fields that represent images.
IMAGE = re.compile(r"image|vision|video|\bimg\b|img_", re.IGNORECASE)
VISION = re.compile(r"visual|vision|projector|merger")


class Family:
    """A model family. This class itself is the generic family of unknown model types.

    Attributes:
        name: the name in messages.
        model_types: values of `model_type` in config.json.
        foreign_types: the same for checkpoints with their own code, which is never run.
        conversions: what to do with those.
        image_tokens: tokens that represent or frame images. A sampled one would refer to an image
            that does not exist. If empty, added tokens are recognised by their names.
        end_tokens: tokens that end a turn even if the generation config does not list them.
        vision: module names of the vision tower and projector, starting from the model. If empty,
            weights are recognised by their names.
        causal: whether the decoder's attention is purely causal, so that examples can be packed
            into one row.
        vllm_limits: how many other inputs a prompt may have, as vLLM's `limit_mm_per_prompt`.
    """

    name: str = "generic"
    model_types: ClassVar[tuple[str, ...]] = ()
    foreign_types: ClassVar[tuple[str, ...]] = ()
    conversions: ClassVar[tuple[str, ...]] = ()
    image_tokens: ClassVar[tuple[str, ...]] = ()
    end_tokens: ClassVar[tuple[str, ...]] = ()
    vision: ClassVar[tuple[str, ...]] = ()
    causal: ClassVar[bool] = False
    vllm_limits: ClassVar[dict[str, int]] = {"video": 0}

    def image_token_ids(self, tokenizer: Any, config: Any) -> set[int]:
        """Ids of the tokens that represent images, for this tokenizer and model config."""
        added = tokenizer.get_added_vocab()
        if self.image_tokens:
            ids = {added[token] for token in self.image_tokens if token in added}
        else:
            ids = {number for token, number in added.items() if IMAGE.search(token)}
        fields = config.to_dict()
        ids |= {v for k, v in fields.items() if k.endswith("_token_id") and IMAGE.search(k)}
        return {number for number in ids if isinstance(number, int)}

    def end_ids(self, tokenizer: Any, generation: Any) -> set[int]:
        """Ids of the tokens that end a response."""
        eos = generation.eos_token_id
        own = {tokenizer.get_added_vocab().get(token) for token in self.end_tokens}
        return {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos]), *own} - {None}

    def is_vision(self, weight: str) -> bool:
        """Whether a weight (or an adapter's) belongs to vision tower or projector, by its name."""
        if self.vision:
            return any(f".{module}." in f".{weight}" for module in self.vision)
        return VISION.search(weight) is not None

    def check(self, text: str, tokenizer: Any) -> None:
        """Refuse text that contains a token which represents an image.

        Raises:
            RecipeError: naming the token.
        """
        guessed = (token for token in tokenizer.get_added_vocab() if IMAGE.search(token))
        for token in self.image_tokens or guessed:
            if token in text:
                raise RecipeError(
                    f"A question contains {token}, which represents an image",
                    text[:200],
                    "Remove it from the data: images are placed before the question automatically.",
                )

    def limit_image_tokens(self, processor: Any, tokens: int) -> dict[str, Any]:
        """Make the processor shrink images to at most `tokens` tokens each.

        Returns:
            The same limit as vLLM's `mm_processor_kwargs`.

        Raises:
            RecipeError: if the family does not support a limit, or this one is too low.
        """
        raise RecipeError(
            "sampling.image_tokens is not supported for this model family",
            f"the processor is a {type(processor).__name__}",
            "Remove it, or describe the family: docs/how-to/custom-family.md",
        )
