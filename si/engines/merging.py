"""Merging an adapter into its base model, so that loading it does not require PEFT."""

from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoConfig

from si.engines.hf import load_model
from si.engines.writing import check_policy, write_policy


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Write `base` with the adapter's updates added to its weights to `out`, an empty folder.

    Weights keep the base's number format; the updates are computed in float32 and rounded once.

    Raises:
        SiError: if the written model differs from the merged one.
    """
    config: Any = AutoConfig.from_pretrained(base, local_files_only=True)
    dtype = str(config.dtype or "float32").removeprefix("torch.")
    model: Any = PeftModel.from_pretrained(load_model(base, dtype), adapter)
    merged = model.merge_and_unload(safe_merge=True)
    write_policy(merged, base, out)
    check_policy(merged, base, out, dtype)
