"""InternVL 2.5 and 3 as transformers' classes (checkpoints whose names end in `-hf`).

- The chat template writes `<IMG_CONTEXT>` for an image; the processor expands it to `<img>`, 256
  of them for each tile, `</img>`. It adds no system turn.
- An image is cut into tiles of 448 pixels, in the grid that fits its shape best, plus one thumbnail
  of the entire image. So its number of tokens grows in steps of 256.
- Positions count up by one per token.
- OpenGVLab's original checkpoints (`model_type: internvl_chat`) have their own code and other
  tensor names. `si.engines.convert_internvl` converts them when they are fetched from the hub.
"""

from typing import Any

from si.engines.families.family import Family
from si.errors import RecipeError


class InternVL(Family):
    """InternVL 2.5 and 3."""

    name = "InternVL"
    model_types = ("internvl",)
    foreign_types = ("internvl_chat",)
    conversions = (
        "Name it as on the hub, owner/name: it is converted when it is fetched.",
        "Convert it and name the new folder: python -m si.engines.convert_internvl FOLDER NEW-hf",
        "Name a converted checkpoint, such as OpenGVLab/InternVL3-8B-hf.",
    )
    image_tokens = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    end_tokens = ("<|im_end|>",)
    vision = ("vision_tower", "multi_modal_projector")
    causal = True

    def limit_image_tokens(self, processor: Any, tokens: int) -> dict[str, Any]:
        tile = processor.image_seq_length
        tiles = (tokens - 2) // tile  # two tokens frame the image
        if tiles < 1:
            raise RecipeError(
                f"sampling.image_tokens: {tokens} is less than the smallest image takes",
                f"a tile has {tile} tokens, and two frame the image",
                f"Set {tile + 2} or more; images of several tiles have one more, a thumbnail.",
            )
        images = processor.image_processor
        # Several tiles are followed by a thumbnail.
        images.max_patches = max(1, tiles - 1)
        images.min_patches = min(images.min_patches, images.max_patches)
        return {"max_patches": images.max_patches, "min_patches": images.min_patches}
