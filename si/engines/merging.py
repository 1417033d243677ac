"""An adapter merged into its base: one model that needs no PEFT to be loaded."""

from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoConfig

from si.engines.hf import load_model
from si.engines.trainer import check_policy, write_policy


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Write `base` with what `adapter` adds to its weights to `out`, an empty folder.

    Weights stay in the number format that the base was written in; what the adapter adds is
    computed in float32 and rounded once.

    Raises:
        SiError: if what was written is not what was merged.
    """
    config: Any = AutoConfig.from_pretrained(base, local_files_only=True)
    dtype = str(config.dtype or "float32").removeprefix("torch.")
    model: Any = PeftModel.from_pretrained(load_model(base, dtype), adapter)
    merged = model.merge_and_unload(safe_merge=True)
    write_policy(merged, base, out)
    check_policy(merged, base, out, dtype)
