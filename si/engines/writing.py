"""Writing a trained policy as a Hugging Face folder, and checking what was written."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from si.config.recipe import Train
from si.engines.hf import ADAPTER_CONFIG, is_adapter, load_model
from si.errors import SiError

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".index.json")
# Files of a complete model. Beside an adapter they would make it look like one.
MODEL_CONFIGS = ("config.json", "generation_config.json")


def export(model: Any, folder: Path, out: Path, train: Train) -> None:
    """Write the trained policy to `out`, load it again and compare.

    Args:
        folder: the Hugging Face folder of the complete model that was loaded.

    Raises:
        SiError: if the written policy differs from the trained one.
    """
    if train.lora is None:
        model.to(getattr(torch, train.dtype))
    write_policy(model, folder, out)
    check_policy(model, folder, out, train.dtype)


def write_policy(model: Any, start: Path, out: Path) -> None:
    """Write the model or its adapter to `out`, with the files of tokenizer and processor.

    Args:
        start: the Hugging Face folder of the complete model that was loaded; its other files are
            copied unchanged.
    """
    model.save_pretrained(out)
    left_out: tuple[str, ...] = ()
    if is_adapter(out):
        left_out = MODEL_CONFIGS
        (out / "README.md").unlink(missing_ok=True)
        config = json.loads((out / ADAPTER_CONFIG).read_text())
        # A path on this machine. The artefact's inputs record which base it is.
        config["base_model_name_or_path"] = None
        (out / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for path in sorted(start.iterdir()):
        if path.is_file() and not path.name.endswith(WEIGHTS) and path.name not in left_out:
            target = out / path.name
            if not target.exists():
                shutil.copyfile(path, target)


def check_policy(model: Any, base: Path, out: Path, dtype: str) -> None:
    """Load the written policy and compare it with the trained one: names, shapes and values. The
    tensors of a complete model must have the same names in the files as in those of `base`.

    Raises:
        SiError: naming the first tensors that differ.
    """
    if not is_adapter(out):
        check_names(model, base, out)
    again = load_model(base if is_adapter(out) else out, dtype, nothing_else=not is_adapter(out))
    if is_adapter(out):
        from peft import PeftModel

        again = PeftModel.from_pretrained(again, out)
    trained, written = model.state_dict(), again.state_dict()
    wrong = [f"{name}: written, but not trained" for name in sorted(written.keys() - trained)]
    for name, tensor in trained.items():
        if name not in written:
            wrong.append(f"{name}: missing")
        elif written[name].shape != tensor.shape:
            wrong.append(f"{name}: {list(written[name].shape)}, trained {list(tensor.shape)}")
        elif not torch.equal(written[name], tensor.cpu().to(written[name].dtype)):
            wrong.append(f"{name}: values differ")
    if wrong:
        raise SiError(
            f"The policy was not written as it was trained: {len(wrong)} of {len(trained)} "
            "tensors differ",
            "\n".join(wrong[:5]),
            "Nothing was committed. Is this version of transformers (or peft) supported?",
        )


def check_names(model: Any, base: Path, out: Path) -> None:
    """Refuse tensor names that the base model's files do not have.

    transformers would map them back, but other engines may leave weights that they do not find
    at random values (`model.visual.*`).

    Raises:
        SiError: naming the first ones.
    """
    strange = tensor_names(out) - tensor_names(base)
    # A head that shares the embedding's weights may be written or not.
    tied = tuple(getattr(model, "_tied_weights_keys", None) or ())
    if tied and model.config.get_text_config().tie_word_embeddings:
        strange = {name for name in strange if not name.endswith(tied)}
    if strange:
        raise SiError(
            f"The policy was written with other tensor names: {len(strange)} are not in "
            f"{base.name}",
            "\n".join(sorted(strange)[:5]),
            "Nothing was committed. Is this version of transformers supported?",
        )


def tensor_names(folder: Path) -> set[str]:
    """The names of all tensors in a folder's safetensors files."""
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            names |= set(tensors.keys())
    return names
