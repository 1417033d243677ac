"""InternVL 2.5 and 3 as transformers' own classes (checkpoints whose names end in `-hf`).

- The chat template writes `<IMG_CONTEXT>` where a picture stands; the processor makes
  `<img>`, 256 of them for each tile, `</img>`. It adds no system turn.
- A picture is cut into tiles of 448 pixels, as many as fit its shape best, and one more of the
  whole; so its tokens come in steps of 256.
- Positions simply count.
- What OpenGVLab published first (`model_type: internvl_chat`) brings code of its own, and other
  tensor names: `si.engines.convert_internvl` converts it, when it is brought from the hub.
"""

from typing import Any

from si.engines.families.family import Family
from si.errors import RecipeError


class InternVL(Family):
    name = "InternVL"
    model_types = ("internvl",)
    foreign_types = ("internvl_chat",)
    conversions = (
        "Name it as it is on the hub, owner/name: it is converted when it is brought from there.",
        "Convert it, and name the new folder: python -m si.engines.convert_internvl FOLDER NEW-hf",
        "Name a converted checkpoint, whose name ends in -hf (OpenGVLab/InternVL3-8B-hf is one).",
    )
    picture_tokens = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    end_tokens = ("<|im_end|>",)
    vision = ("vision_tower", "multi_modal_projector")
    causal = True

    def limit_pictures(self, processor: Any, tokens: int) -> dict[str, Any]:
        tile = processor.image_seq_length
        tiles = (tokens - 2) // tile  # less the two that frame the picture
        if tiles < 1:
            raise RecipeError(
                f"sampling.image_tokens: {tokens} is less than a picture's smallest",
                f"a tile has {tile} tokens, and two frame the picture",
                f"Give {tile + 2} or more; pictures of several tiles have one more of the whole.",
            )
        images = processor.image_processor
        # Several tiles are followed by one of the whole picture.
        images.max_patches = max(1, tiles - 1)
        images.min_patches = min(images.min_patches, images.max_patches)
        return {"max_patches": images.max_patches, "min_patches": images.min_patches}
