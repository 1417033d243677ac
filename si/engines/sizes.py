"""How many weights a model has, without its weights: from a table, or counted from its config."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from si.errors import RecipeError
from si.machine import packages


class Size(NamedTuple):
    """Numbers of weights.

    Attributes:
        decoder: all of the decoder but its embedding.
        head: the output head.
        embedding: the input embedding; 0 if it is the head's matrix.
        vision: vision tower and projector.
        lora: an adapter of rank 1 on all of the decoder's matrices.
        patches: patches that the vision tower computes for one token of an image.
    """

    decoder: int
    head: int
    embedding: int
    vision: int
    lora: int
    patches: int

    @property
    def weights(self) -> int:
        return self.decoder + self.head + self.embedding + self.vision


# By name on the hub (huggingface.co/OWNER/NAME); tests/unit/test_sizes.py holds them to `count`.
KNOWN = {
    "qwen2-vl-2b": Size(1_310_340_608, 233_373_696, 0, 665_271_296, 1_154_048, 4),
    "qwen2-vl-7b": Size(6_525_621_760, 544_997_376, 544_997_376, 675_759_104, 2_523_136, 4),
    "qwen2.5-vl-3b": Size(2_774_773_760, 311_164_928, 0, 668_684_288, 1_870_848, 4),
    "qwen2.5-vl-7b": Size(6_525_621_760, 544_997_376, 544_997_376, 676_550_144, 2_523_136, 4),
    "internvl2_5-4b": Size(2_774_773_760, 310_628_352, 310_628_352, 316_533_760, 1_870_848, 4),
}


def known(name: str) -> Size | None:
    """The size of a model by its name on the hub (`Qwen/Qwen2-VL-7B-Instruct`, perhaps with
    @revision); None if it is not in the table."""
    short = name.partition("@")[0].rpartition("/")[2].lower().replace("internvl2.5", "internvl2_5")
    found = [size for key, size in KNOWN.items() if re.match(rf"{re.escape(key)}\b", short)]
    return found[0] if found else None


def size_of(source: str, config: Mapping[str, Any] | None) -> Size | None:
    """The size of the model that a recipe names; None if it is unknown.

    Args:
        source: a name on the hub, or a folder.
        config: its config.json, if it is at hand: counted where the table does not have it.

    Raises:
        RecipeError: if it has to be counted, and the local engines are not installed.
    """
    found = None if Path(source).is_dir() else known(source)
    return found or (count(config) if config else None)


def count(config: Mapping[str, Any]) -> Size | None:
    """The size of a model by its config.json; None for one that transformers does not know.

    The model is built on torch's meta device, which takes seconds and no memory.

    Raises:
        RecipeError: if the local engines are not installed.
    """
    packages.check("Counting a model's weights", "local")
    import torch
    import transformers

    from si.engines.speed import parts_of

    kind = config.get("model_type", "")
    try:
        whole: Any = transformers.CONFIG_MAPPING[kind].from_dict(dict(config))
        with torch.device("meta"):
            build: Any = transformers.AutoModelForImageTextToText.from_config
            model = build(whole)
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    parts = parts_of(model)
    matrices = (m for m in model.get_decoder().modules() if isinstance(m, torch.nn.Linear))
    head = sum(p.numel() for p in parts.head)
    tied = any(p is q for p in parts.head for q in parts.embedding)
    return Size(
        decoder=sum(p.numel() for p in parts.decoder),
        head=head,
        embedding=0 if tied else sum(p.numel() for p in parts.embedding),
        vision=sum(p.numel() for p in parts.vision),
        lora=sum(m.in_features + m.out_features for m in matrices),
        patches=_patches(whole),
    )


def _patches(config: Any) -> int:
    """Patches that a vision tower merges into one token: Qwen's and InternVL's say how many."""
    side = getattr(config.vision_config, "spatial_merge_size", None)
    return side**2 if side else round(getattr(config, "downsample_ratio", 1) ** -2)


def unknown(source: str) -> RecipeError:
    """The error about a model whose size is unknown."""
    return RecipeError(
        f"The size of the model {source} is not known here",
        "known names: " + ", ".join(KNOWN),
        (
            "Name a folder with its config.json: --set model.source=FOLDER",
            "Or use a finished run's figures: --calibrate RUN",
        ),
    )
