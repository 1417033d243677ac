"""What trainers need beside the rows: a description of the data set, and a command.

LLaMA-Factory reads `dataset_info.json`. TRL reads a configuration that names the file: given its
folder, `datasets` would read all that lies there, or only the images.
"""

import json
import shlex
from pathlib import Path

from si.machine.files import check, write_files

INFO = "dataset_info.json"
# Layout -> the command that trains on a file; MODEL is for the user to replace.
COMMANDS = {
    "trl": "cd {folder} && trl sft --config {config} --model_name_or_path MODEL",
    "sharegpt": "llamafactory-cli train --stage sft --do_train --model_name_or_path MODEL "
    "--dataset_dir {folder} --dataset {name} --template qwen2_vl --output_dir OUTPUT",
    "verl": "torchrun -m verl.trainer.fsdp_sft_trainer data.train_files={file} "
    "data.multiturn.enable=true data.multiturn.messages_key=messages model.partial_pretrain=MODEL",
    "swift": "swift sft --model MODEL --dataset {file}",
}


def command(layout: str, out: Path) -> str:
    """The command that trains on a file of rows; empty for a layout that no trainer reads."""
    words = {"file": out.resolve(), "folder": out.resolve().parent, "name": out.stem}
    words["config"] = trl_config(out).name
    quoted = {name: shlex.quote(str(word)) for name, word in words.items()}
    return COMMANDS.get(layout, "").format(**quoted)


def trl_config(out: Path) -> Path:
    """The configuration of TRL beside a file of rows."""
    return out.with_suffix(".trl.yaml")


def write_beside(layout: str, out: Path, images: bool, force: bool) -> list[str]:
    """Write the file that a layout's trainer needs beside the rows, if any; notes for the user.

    Args:
        images: whether rows have images.
        force: replace an older file.
    """
    if layout == "sharegpt":
        return [describe(out, images)]
    return [configure(out, force)] if layout == "trl" else []


def check_config(out: Path, force: bool) -> None:
    """Check that `configure` can write.

    Raises:
        OutputError, StoreUnavailable: as `si.machine.files.check`.
    """
    if not _is_current(out):
        check(trl_config(out), force)


def configure(out: Path, force: bool) -> str:
    """Write a configuration with which `trl sft` reads a file of rows.

    Args:
        force: replace an older one.

    Returns:
        A note for the user.
    """
    path = trl_config(out)
    if not _is_current(out):
        write_files({path: _config_text(out).encode()}, force)
    return f"{path} names the rows, for TRL."


def _is_current(out: Path) -> bool:
    path = trl_config(out)
    return path.is_file() and path.read_bytes() == _config_text(out).encode()


def _config_text(out: Path) -> str:
    kind = "parquet" if out.suffix == ".parquet" else "json"
    named = json.dumps(str(out.resolve()))
    return (
        "# For trl sft. Its settings can follow here, such as learning_rate.\n"
        f"datasets:\n  - path: {kind}\n    data_files: {named}\n"
    )


def describe(out: Path, images: bool) -> str:
    """Write LLaMA-Factory's `dataset_info.json` beside a file, unless there is one already.

    Args:
        images: whether rows have images.

    Returns:
        A note for the user: what was written, or the entry to add.
    """
    columns = {"messages": "conversations"} | ({"images": "images"} if images else {})
    entry = {out.stem: {"file_name": out.name, "formatting": "sharegpt", "columns": columns}}
    path = out.with_name(INFO)
    if path.exists():
        known = _entries(path)
        if known.get(out.stem) == entry[out.stem]:
            return f"{path} describes the data set as {out.stem}."
        return f"Add to {path}: {json.dumps(entry)[1:-1]}"
    write_files({path: (json.dumps(entry, indent=2) + "\n").encode()})
    return f"{path} describes the data set as {out.stem}, for LLaMA-Factory."


def _entries(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
