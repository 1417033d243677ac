"""What trainers need beside the rows: LLaMA-Factory's description of a data set, and a command."""

import json
import shlex
from pathlib import Path

from si.machine.files import write_files

INFO = "dataset_info.json"
# Layout -> the command that trains on a file; MODEL is for the user to replace.
COMMANDS = {
    "trl": "trl sft --model_name_or_path MODEL --dataset_name {folder}",
    "sharegpt": "llamafactory-cli train --stage sft --do_train --model_name_or_path MODEL "
    "--dataset_dir {folder} --dataset {name} --template qwen2_vl --output_dir OUTPUT",
    "verl": "torchrun -m verl.trainer.fsdp_sft_trainer data.train_files={file} "
    "data.multiturn.enable=true data.multiturn.messages_key=messages model.partial_pretrain=MODEL",
    "swift": "swift sft --model MODEL --dataset {file}",
}


def command(layout: str, out: Path) -> str:
    """The command that trains on a file of rows; empty for a layout that no trainer reads."""
    words = {"file": out.resolve(), "folder": out.resolve().parent, "name": out.stem}
    quoted = {name: shlex.quote(str(word)) for name, word in words.items()}
    return COMMANDS.get(layout, "").format(**quoted)


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
