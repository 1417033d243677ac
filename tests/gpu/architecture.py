"""Qwen2-VL at its real sizes with random weights: what speed and memory depend on, no download."""

import gc
from pathlib import Path
from typing import Any

import torch

from tests.unit import tiny

# Of config.json of Qwen/Qwen2-VL-7B-Instruct; ids and limits are those of the tiny tokenizer.
TEXT_7B: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [16, 24, 24],
    },
}
VISION_7B: dict[str, Any] = {
    "depth": 32,
    "embed_dim": 1280,
    "hidden_size": 3584,
    "num_heads": 16,
    "mlp_ratio": 4,
    "initializer_range": 0.02,
}
# vLLM on a CPU wants heads of 32.
TEXT_TINY: dict[str, Any] = {
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 4, 4]},
}
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "7b": (TEXT_7B, VISION_7B),
    "tiny": (TEXT_TINY, {}),
}


def build(folder: Path, size: str) -> Path:
    """Write a policy of this size to `folder`, in bfloat16; a 7B takes 17 GB. It is made on the
    GPU if there is one."""
    text, vision = SIZES[size]
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        tiny.build(folder, text=text, vision=vision, dtype=torch.bfloat16, cells=1024)
    free()
    return folder


def free() -> None:
    """Give back the GPU's memory that nothing uses any more: another engine counts what is free."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
