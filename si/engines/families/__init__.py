"""Model families, each in a module of its own: what of a model transformers does not say alike
for all. `family_of` finds the one that a checkpoint is of."""

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
    """The family of the checkpoint in a folder; the generic one if nobody has described it.

    Args:
        name: `auto`, or `package.module:Class` of a family of one's own.

    Raises:
        RecipeError: if the checkpoint cannot be used, or there is no such family.
    """
    config = read_config(folder)
    if name == AUTO:
        kind = config["model_type"]
        return next((family for family in FAMILIES if kind in family.model_types), Family())
    return load_class("family", name, {}, Family)()


def read_config(folder: Path, foreign: bool = False) -> dict[str, Any]:
    """A checkpoint's config.json.

    Args:
        foreign: take those that bring code of their own, too: they are about to be converted.

    Raises:
        RecipeError: if there is none, it names no model, or one that only runs code of its own.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
        kind = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{folder} is no Hugging Face checkpoint",
            f"{CONFIG} cannot be read, or names no model_type: {type(error).__name__}",
            "Give a folder with config.json, safetensors, tokenizer and processor files.",
        ) from error
    for family in FAMILIES:
        if kind in family.foreign_types and not foreign:
            raise RecipeError(
                f"{folder.name} is a checkpoint that brings its own code (model_type {kind})",
                "si-ctl runs no code of a checkpoint",
                family.conversions,
            )
    return dict(config)


__all__ = ["AUTO", "CONFIG", "FAMILIES", "Family", "family_of", "read_config"]
