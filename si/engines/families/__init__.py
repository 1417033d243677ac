"""Model families, one module each: what transformers does not provide in the same way for all
models. `family_of` finds the family of a checkpoint."""

import json
from pathlib import Path
from typing import Any

from si.engines.families.family import Family
from si.engines.families.internvl import InternVL
from si.engines.families.qwen2_vl import Qwen2VL
from si.errors import RecipeError
from si.plugins import load_class

FAMILIES: tuple[Family, ...] = (Qwen2VL(), InternVL())
AUTO = "auto"
CONFIG = "config.json"


def family_of(folder: Path, name: str = AUTO) -> Family:
    """The family of the checkpoint in a folder; the generic one if no family lists its model type.

    Args:
        name: `auto`, or `package.module:Class` of a custom family.

    Raises:
        RecipeError: if the checkpoint is unusable, or the custom family cannot be loaded.
    """
    config = read_config(folder)
    if name == AUTO:
        kind = config["model_type"]
        return next((family for family in FAMILIES if kind in family.model_types), Family())
    return load_class("family", name, {}, Family)()


def read_config(folder: Path, foreign: bool = False) -> dict[str, Any]:
    """A checkpoint's config.json.

    Args:
        foreign: also accept checkpoints with their own code, which are about to be converted.

    Raises:
        RecipeError: if it is missing, names no model type, or one that requires its own code.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
        kind = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{folder} is not a Hugging Face checkpoint",
            f"{CONFIG} is unreadable or has no model_type: {type(error).__name__}",
            "Name a folder with config.json, safetensors, tokenizer and processor files.",
        ) from error
    for family in FAMILIES:
        if kind in family.foreign_types and not foreign:
            raise RecipeError(
                f"{folder.name} is a checkpoint with its own code (model_type {kind})",
                "si-ctl never runs code from a checkpoint",
                family.conversions,
            )
    return dict(config)


__all__ = ["AUTO", "CONFIG", "FAMILIES", "Family", "family_of", "read_config"]
