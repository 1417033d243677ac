"""Foreign data sets as other tools leave them on disk, written by hand in their true layouts."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
Rows = list[dict[str, Any]]


def picture(number: int, kind: str = "PNG", mode: str = "RGB", **how: Any) -> bytes:
    """An encoded image that no other number has."""
    image = Image.new("RGB", (24, 16), (number % 256, number // 256, 7)).convert(mode)
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def rows(numbers: Sequence[int], **names: str) -> Rows:
    """Rows of sums, as `question`, `answer`, `image` or under other names."""
    question, answer = names.get("question", "question"), names.get("answer", "answer")
    return [
        {
            question: f"What is {n} + {n}?",
            answer: str(2 * n),
            names.get("image", "image"): {"bytes": picture(n), "path": f"{n}.png"},
        }
        for n in numbers
    ]


def _features(kinds: Mapping[str, pa.DataType], extra: Mapping[str, Any]) -> dict[str, Any]:
    features: dict[str, Any] = {}
    for name, kind in kinds.items():
        if kind == IMAGE:
            features[name] = {"_type": "Image"}
        elif kind == pa.list_(IMAGE):
            features[name] = {"feature": {"_type": "Image"}, "_type": "Sequence"}
        else:
            features[name] = {"dtype": str(kind), "_type": "Value"}
    return features | dict(extra)


def table(made: Rows, classes: Mapping[str, list[str]] | None = None) -> pa.Table:
    """Rows as the library `datasets` holds them, with its note of their features."""
    kinds: dict[str, pa.DataType] = {}
    for name, value in made[0].items():
        if isinstance(value, dict) and "bytes" in value:
            kinds[name] = IMAGE
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            kinds[name] = pa.list_(IMAGE)
        else:
            kinds[name] = pa.array([row[name] for row in made]).type
    labels = {
        name: {"names": names, "_type": "ClassLabel"} for name, names in (classes or {}).items()
    }
    about = json.dumps({"info": {"features": _features(kinds, labels)}})
    schema = pa.schema(list(kinds.items()), metadata={"huggingface": about})
    return pa.Table.from_pylist(made, schema)


def hub_parquet(folder: Path, splits: Mapping[str, Rows], group: int = 100, **how: Any) -> Path:
    """`data/train-00000-of-00001.parquet` and so on, as the hub keeps a data set."""
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\ndataset_info: {}\n---\n")
    for split, made in splits.items():
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        pq.write_table(table(made, **how), path, row_group_size=group)
    return folder


def saved_split(folder: Path, made: Rows, split: str | None = None, shards: int = 1) -> Path:
    """One data set as `Dataset.save_to_disk` leaves it: Arrow streams, state, info."""
    folder.mkdir(parents=True)
    whole = table(made)
    names = [f"data-{i:05d}-of-{shards:05d}.arrow" for i in range(shards)]
    for i, name in enumerate(names):
        part = whole.slice(i * len(whole) // shards, len(whole) // shards)
        with (
            pa.OSFile(str(folder / name), "wb") as sink,
            pa.ipc.new_stream(sink, part.schema) as out,
        ):
            out.write_table(part, max_chunksize=5)
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "0123456789abcdef",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    features = json.loads(whole.schema.metadata[b"huggingface"])["info"]["features"]
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    return folder


def saved_dict(folder: Path, splits: Mapping[str, Rows]) -> Path:
    """Several splits as `DatasetDict.save_to_disk` leaves them."""
    for split, made in splits.items():
        saved_split(folder / split, made, split)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def json_lines(path: Path, made: Rows) -> Path:
    """JSON lines with paths of images that lie in `images/` beside the file."""
    (path.parent / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for row in made:
        line = dict(row)
        for name, value in row.items():
            if isinstance(value, dict) and "bytes" in value:
                line[name] = f"images/{value['path']}"
                (path.parent / "images" / value["path"]).write_bytes(value["bytes"])
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines) + "\n")
    return path
