"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: one decoder; images of any size as a grid of patches.

- The chat templates of Qwen2-VL and Qwen2.5-VL add a system turn ("You are a helpful assistant.")
  if `sampling.system_prompt` is empty; Qwen3-VL's adds none.
- Positions have three dimensions (time, height, width), which the model computes from the images'
  grids. After a prompt they continue from a number below its length.
- A token covers 2 x 2 patches of 14 pixels (16 in Qwen3-VL), so an image's number of tokens follows
  from its size.
- The hub's files of Qwen2-VL and Qwen2.5-VL name weights `visual.*` and `model.*`, the classes
  `model.visual.*` and `model.language_model.*`; transformers translates both ways.
"""

from typing import Any

from si.engines.families.family import Family


class Qwen2VL(Family):
    """Qwen2-VL and its successors."""

    name = "Qwen2-VL"
    model_types = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
    image_tokens = (
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    )
    end_tokens = ("<|im_end|>",)
    vision = ("visual",)
    causal = True

    def limit_image_tokens(self, processor: Any, tokens: int) -> dict[str, Any]:
        images = processor.image_processor
        area = (images.patch_size * images.merge_size) ** 2  # pixels per token
        size = dict(images.size)
        least, most = size["shortest_edge"], tokens * area
        size |= {"shortest_edge": min(least, most), "longest_edge": most}
        images.size = size
        return {"size": size}
