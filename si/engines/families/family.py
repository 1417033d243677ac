"""What si-ctl has to know of a family of models, and what it guesses of one that nobody described.

Most of what differs transformers says alike for all models, and the engines ask the model: its
decoder and output head (what trains, where LoRA goes), whether it works out positions in several
dimensions itself, its chat template, its processor. What is left is here. No torch is imported:
models, tokenizers and processors are handed in.
"""

import re
from typing import Any, ClassVar

from si.errors import RecipeError

# Tokens and fields of a config that stand for pictures, by their names.
PICTURE = re.compile(r"image|vision|video|\bimg\b|img_", re.IGNORECASE)
VISION = re.compile(r"visual|vision|projector|merger")


class Family:
    """A family; this class itself is that of models that nobody has described.

    Attributes:
        name: as it is said to users.
        model_types: what `model_type` in config.json says of its models.
        foreign_types: the same of checkpoints that bring code of their own, which is never run.
        conversions: ways out for those.
        picture_tokens: tokens that stand for pictures or frame them. Sampled, they would ask for a
            picture that is not there. If empty, added tokens are judged by their names.
        end_tokens: tokens that end a turn, whether or not the generation config says so.
        vision: names of the modules that are vision tower and projector, from the model on. If
            empty, weights are judged by their names.
        causal: whether its decoder attends to all that came before, and in no other way: then
            examples can be packed into one row.
        vllm_limits: how many of what else a prompt could hold, as vLLM's `limit_mm_per_prompt`.
    """

    name: str = "generic"
    model_types: ClassVar[tuple[str, ...]] = ()
    foreign_types: ClassVar[tuple[str, ...]] = ()
    conversions: ClassVar[tuple[str, ...]] = ()
    picture_tokens: ClassVar[tuple[str, ...]] = ()
    end_tokens: ClassVar[tuple[str, ...]] = ()
    vision: ClassVar[tuple[str, ...]] = ()
    causal: ClassVar[bool] = False
    vllm_limits: ClassVar[dict[str, int]] = {"video": 0}

    def picture_ids(self, tokenizer: Any, config: Any) -> set[int]:
        """Numbers of the tokens that stand for pictures, for this tokenizer and model config."""
        added = tokenizer.get_added_vocab()
        if self.picture_tokens:
            ids = {added[token] for token in self.picture_tokens if token in added}
        else:
            ids = {number for token, number in added.items() if PICTURE.search(token)}
        fields = config.to_dict()
        ids |= {v for k, v in fields.items() if k.endswith("_token_id") and PICTURE.search(k)}
        return {number for number in ids if isinstance(number, int)}

    def end_ids(self, tokenizer: Any, generation: Any) -> set[int]:
        """Numbers of the tokens that end a response."""
        eos = generation.eos_token_id
        own = {tokenizer.get_added_vocab().get(token) for token in self.end_tokens}
        return {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos]), *own} - {None}

    def is_vision(self, weight: str) -> bool:
        """Whether a weight of that name, or an adapter's, is of vision tower or projector."""
        if self.vision:
            return any(f".{module}." in f".{weight}" for module in self.vision)
        return VISION.search(weight) is not None

    def check(self, text: str, tokenizer: Any) -> None:
        """Refuse text that holds a token which stands for a picture.

        Raises:
            RecipeError: naming the token.
        """
        guessed = (token for token in tokenizer.get_added_vocab() if PICTURE.search(token))
        for token in self.picture_tokens or guessed:
            if token in text:
                raise RecipeError(
                    f"A question holds {token}, which stands for a picture",
                    text[:200],
                    "Take it out of the data: pictures come before the question by themselves.",
                )

    def limit_pictures(self, processor: Any, tokens: int) -> dict[str, Any]:
        """Make the processor shrink pictures so that each takes at most so many tokens.

        Returns:
            The same as vLLM's `mm_processor_kwargs`.

        Raises:
            RecipeError: if the family cannot, or not so few.
        """
        raise RecipeError(
            "sampling.image_tokens is not known to work with this family of models",
            f"the processor is a {type(processor).__name__}",
            "Leave it out, or describe the family: docs/how-to/custom-family.md",
        )
