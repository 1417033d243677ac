"""`data import` reads every layout that it says it reads, and finds columns and splits in them."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from si.datasets.columns import NAMES, parse_map
from si.datasets.dataset import Dataset
from si.datasets.importing import Source, import_data
from si.datasets.splits import Splits
from si.errors import DataError, RecipeError
from si.store.artifact import Artifact
from si.store.folder import FolderStore
from tests.unit.layouts import (
    hub_parquet,
    json_lines,
    picture,
    rows,
    saved_dict,
    saved_split,
    table,
)

SPLITS = {"train": rows(range(20)), "validation": rows(range(20, 25)), "test": rows(range(25, 30))}


def bring(tmp_path, source, columns="", split="", name="mine", **more):
    """Import a source, and give what came of it with its queries by split."""
    store = FolderStore(tmp_path / "store")
    opened = Source.open(source, parse_map(columns), Splits.parse(split), more.pop("kind", None))
    made = import_data(store, opened, name, tmp_path / "notes", **more)
    found: dict[str, list] = {}
    for part, queries in Dataset(Artifact.open(store, made.manifest.spec.address)).parts():
        found.setdefault(part, []).extend(queries)
    return made, found


def counts(found):
    return {split: len(queries) for split, queries in found.items()}


@pytest.mark.parametrize("layout", ["hub", "saved", "jsonl", "parquet files"])
def test_every_layout_gives_the_same_data_set(layout, tmp_path):
    """The hub's Parquet, a saved DatasetDict, JSON lines and plain Parquet: equal queries."""
    source = tmp_path / "source"
    if layout == "hub":
        hub_parquet(source, SPLITS, group=7)
    elif layout == "saved":
        saved_dict(source, SPLITS)
    elif layout == "jsonl":
        for split, made in SPLITS.items():
            json_lines(source / f"{split}.jsonl", made)
    else:
        for split, made in SPLITS.items():
            (source / split).mkdir(parents=True)
            flat = [row | {"image": row["image"]["bytes"]} for row in made]
            pq.write_table(pa.Table.from_pylist(flat), source / split / "0.parquet")
    made, found = bring(tmp_path, source)
    assert counts(found) == {"train": 20, "dev": 5, "test": 5}
    assert [query.question for query in found["train"]] == [r["question"] for r in SPLITS["train"]]
    assert found["dev"][0].images == (picture(20),)
    assert found["test"][4].answer == "58" and found["test"][4].answer_kind == "number"
    assert made.manifest.spec.address.startswith("data/mine-")
    # The key is what is in the data set, not how its source was stored.
    other, _ = bring(tmp_path / "again", hub_parquet(tmp_path / "again" / "s", SPLITS))
    assert made.manifest.ref == other.manifest.ref


def test_saved_data_set_without_a_dict(tmp_path):
    """One saved data set is read in its state's order, without caches that lie beside it."""
    source = saved_split(tmp_path / "mine", rows(range(12)), "train", shards=3)
    saved_split(tmp_path / "other", rows(range(50, 60)))
    (tmp_path / "other" / "data-00000-of-00001.arrow").rename(source / "cache-1f2e3d.arrow")
    _, found = bring(tmp_path, source)
    assert counts(found) == {"train": 12}
    assert [query.answer for query in found["train"]] == [str(2 * n) for n in range(12)]


def test_saved_data_set_that_is_not_whole(tmp_path):
    """A file that state.json names and that is missing is an error, not a smaller data set."""
    source = saved_split(tmp_path / "mine", rows(range(12)), shards=3)
    (source / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(DataError, match="is incomplete") as caught:
        bring(tmp_path, source)
    assert "data-00001-of-00003.arrow" in caught.value.detail


def test_arrow_file_format(tmp_path):
    """Arrow's file format is read as its stream format is."""
    made = table(rows(range(9)))
    source = tmp_path / "train.arrow"
    with pa.OSFile(str(source), "wb") as sink, pa.ipc.new_file(sink, made.schema) as out:
        out.write_table(made, max_chunksize=4)
    assert counts(bring(tmp_path, source)[1]) == {"train": 9}


def test_json_with_a_list(tmp_path):
    """A JSON file with a list of objects, or one that holds such a list, is read."""
    json_lines(tmp_path / "lines" / "x.jsonl", rows(range(6)))
    listed = [json.loads(line) for line in (tmp_path / "lines/x.jsonl").read_text().splitlines()]
    for whole in (listed, {"version": 1, "data": listed}):
        (tmp_path / "lines" / "test.json").write_text(json.dumps(whole))
        _, found = bring(tmp_path, tmp_path / "lines" / "test.json")
        assert counts(found) == {"test": 6}


def test_several_images_in_every_form(tmp_path):
    """A row's images may be structs, bytes, paths, data URIs, a list of them or several columns."""
    import base64

    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "3.png").write_bytes(picture(3))
    uri = f"data:image/png;base64,{base64.b64encode(picture(4)).decode()}"
    lines = [
        {"question": "<image>\n<image>a?", "answer": "1", "images": ["3.png", uri]},
        {"question": "b?", "answer": "2", "images": "./3.png"},
    ]
    (tmp_path / "s" / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    _, found = bring(tmp_path, tmp_path / "s")
    assert [query.images for query in found["train"]] == [(picture(3), picture(4)), (picture(3),)]
    assert found["train"][0].question == "a?"
    made = [{"question": "c?", "answer": "x", "image_1": picture(1), "image_2": picture(2)}]
    pq.write_table(pa.Table.from_pylist(made), tmp_path / "train.parquet")
    _, found = bring(tmp_path, tmp_path / "train.parquet")
    assert found["train"][0].images == (picture(1), picture(2))


def test_columns_by_map(tmp_path):
    """--map names columns, into structs too, and can turn a field off."""
    made = [
        {
            "frage": "a?",
            "answer": "wrong",
            "reward": {"truth": "7"},
            "bild": picture(1),
            "solution": "because",
        }
    ]
    pq.write_table(pa.Table.from_pylist(made), tmp_path / "train.parquet")
    source = tmp_path / "train.parquet"
    with pytest.raises(DataError, match="known to hold the question") as caught:
        bring(tmp_path, source)
    assert "--map question=COLUMN" in caught.value.ways_out[0]
    told = "question=frage,answer=reward.truth,images=bild"
    (query,) = bring(tmp_path, source, told)[1]["train"]
    assert (query.question, query.answer, query.rationale) == ("a?", "7", "because")
    (query,) = bring(tmp_path, source, told + ",rationale=")[1]["train"]
    assert query.rationale is None
    with pytest.raises(DataError, match="no column 'nix'"):
        bring(tmp_path, source, "question=nix")
    with pytest.raises(RecipeError, match="--map cannot use 'quest"):
        parse_map("quest=frage")


def test_rows_as_training_tools_write_them(tmp_path):
    """A chat's user turn is the question, and verl's reward_model holds the answer."""
    made = [
        {
            "prompt": [
                {"role": "system", "content": "Think."},
                {"role": "user", "content": "<image>How many?"},
            ],
            "images": [{"bytes": picture(1), "path": None}],
            "reward_model": {"ground_truth": "3", "style": "rule"},
        }
    ]
    pq.write_table(pa.Table.from_pylist(made), tmp_path / "train.parquet")
    (query,) = bring(tmp_path, tmp_path / "train.parquet")[1]["train"]
    assert (query.question, query.answer) == ("How many?", "3")


def test_class_labels_are_words(tmp_path):
    """A ClassLabel column, stored as numbers, gives the names of its classes."""
    made = [
        {"question": "animal?", "label": n % 2, "image": {"bytes": picture(n), "path": None}}
        for n in range(2)
    ]
    source = hub_parquet(tmp_path / "s", {"train": made}, classes={"label": ["cat", "dog"]})
    found = bring(tmp_path, source)[1]["train"]
    assert [query.answer for query in found] == ["cat", "dog"]


def test_unnamed_rows_are_dealt_by_their_images(tmp_path):
    """Rows of no split are dealt 80/10/10, questions about one image into one split."""
    made = [row for n in range(300) for row in rows([n]) + rows([n])]
    for number, row in enumerate(made):
        row["question"] += f" ({number})"
    source = json_lines(tmp_path / "s" / "all.jsonl", made)
    got, found = bring(tmp_path, source)
    assert got.dealt == 600
    assert 420 < len(found["train"]) < 540 and len(found["dev"]) > 20 and len(found["test"]) > 20
    images = {split: {q.images for q in queries} for split, queries in found.items()}
    assert not images["train"] & images["dev"] and not images["train"] & images["test"]
    again = bring(tmp_path / "x", source)[1]
    assert [q.query_id for q in again["dev"]] == [q.query_id for q in found["dev"]]


@pytest.mark.parametrize(
    "split,expected",
    [
        ("test", {"test": 30}),
        ("testmini=dev", {"train": 20, "dev": 10}),
        ("train=50,dev=50,testmini=test", {"train": 16, "dev": 4, "test": 10}),
    ],
)
def test_split_option(split, expected, tmp_path):
    """--split sends all rows to one split, names a source's own, or deals some by shares."""
    named = {"train": rows(range(20)), "testmini": rows(range(20, 30))}
    _, found = bring(tmp_path, hub_parquet(tmp_path / "s", named), split=split)
    assert counts(found) == expected


@pytest.mark.parametrize("text", ["trial", "train=x", "train=0", "a=b"])
def test_split_option_that_means_nothing(text):
    """A --split that names no split or deals nothing is refused with the three ways."""
    with pytest.raises(RecipeError) as caught:
        Splits.parse(text)
    assert len(caught.value.ways_out) == 3


def test_split_column(tmp_path):
    """A column `split` decides row by row."""
    made = rows(range(6))
    for row, split in zip(made, ["val", "train", "train", "test", "train", "val"], strict=True):
        row["split"] = split
    _, found = bring(tmp_path, json_lines(tmp_path / "s" / "all.jsonl", made))
    assert counts(found) == {"train": 3, "dev": 2, "test": 1}


def test_splits_become_disjoint(tmp_path):
    """A row that an earlier split has too is lost by the later one, counted and named."""
    splits = {
        "test": rows([1, 2, 7]),
        "train": rows([0, 1, 2, 3, 3]),
        "validation": rows([3, 4, 7]),
    }
    made, found = bring(tmp_path, hub_parquet(tmp_path / "s", splits))
    assert counts(found) == {"train": 4, "dev": 2}
    assert made.repeats == 1
    assert made.overlaps == [
        ("train", "dev", "data/validation-00000-of-00001.parquet row 0"),
        ("train", "test", "data/test-00000-of-00001.parquet row 0"),
        ("train", "test", "data/test-00000-of-00001.parquet row 1"),
        ("dev", "test", "data/test-00000-of-00001.parquet row 2"),
    ]


def test_nothing_to_import(tmp_path):
    """A path that is not there, an empty folder, and files of other kinds are named errors."""
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "train.jsonl").write_text("\n")
    for source in (tmp_path / "nowhere", tmp_path / "notes.txt", tmp_path / "train.jsonl"):
        with pytest.raises(DataError):
            bring(tmp_path, source)


@pytest.mark.parametrize("name", ["train.parquet", "train.arrow", "train.json"])
def test_damaged_file_is_named(name, tmp_path):
    """A file that its format's reader refuses is named, without a trace of Python."""
    (tmp_path / name).write_bytes(b"PAR1 this is none")
    with pytest.raises(DataError, match=name):
        bring(tmp_path, tmp_path / name)


def test_every_column_name_is_documented():
    """docs/data.md lists, for every field, the names of columns that are recognised."""
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for field, names in NAMES.items():
        (row,) = re.findall(
            rf"^\| `{field}` \| (.*?)(?: image_1 \.\.\.|:.*)? \|$", text, re.MULTILINE
        )
        assert [name.strip() for name in row.rstrip(",").split(",")] == list(names), field
