"""`data import` of the layouts that people have: chats, tables, archives, folders, paths."""

import base64
import gzip
import json
import re
import shlex
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from si.answers import Judge, MathPool, Policy
from si.cli import app
from si.datasets.columns import parse_map
from si.datasets.dataset import Dataset
from si.datasets.find import find_files
from si.datasets.import_source import Reading, Source
from si.datasets.importing import Imported, import_data
from si.datasets.splits import Splits
from si.errors import DataError, RecipeError
from si.records import Query
from si.stages.verify import case_of
from si.store.artifact import Artifact
from si.store.folder import FolderStore
from tests.unit.layouts import picture


def bring(
    tmp_path: Path, source: Any, columns: str = "", split: str = "train", **how: Any
) -> tuple[Imported, list[Query]]:
    """Import a source of the user's own, and give its queries in the order of the splits."""
    reading = Reading(confined=False, scratch=tmp_path / "scratch", **how)
    opened = Source.open(source, parse_map(columns), Splits.parse(split), None, "mine", reading)
    store = FolderStore(tmp_path / "store")
    made = import_data(store, opened, "mine", tmp_path / "notes")
    parts = Dataset(Artifact.open(store, made.manifest.spec.address)).parts()
    return made, [query for _, queries in parts for query in queries]


def lines(path: Path, rows: list[Any], encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode(encoding)
    )
    return path


def drawn(folder: Path, *numbers: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number}.png").write_bytes(picture(number))
    return folder


def row(number: int, image: Any) -> dict[str, Any]:
    return {"question": f"How many in {number}?", "answer": str(number), "image": image}


# --- images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["absolute", "link", "parent", "root", "uri", "base64", "object"])
def test_images_wherever_they_lie(how: str, tmp_path: Path) -> None:
    """Images of the user's own data are found by any path, and inside the row in any form."""
    disk = drawn(tmp_path / "disk", 1)
    folder = tmp_path / "set" / "notes"
    folder.mkdir(parents=True)
    encoded = base64.b64encode(picture(1)).decode()
    if how == "link":
        (folder / "pics").symlink_to(disk)
    if how == "root":
        drawn(tmp_path / "set" / "pics", 1)
    image = {
        "absolute": str(disk / "1.png"),
        "link": "pics/1.png",
        "parent": "../../disk/1.png",
        "root": "pics/1.png",
        "uri": f"file://{disk}/1.png",
        "base64": encoded,
        "object": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
    }[how]
    lines(folder / "train.jsonl", [row(1, image)])
    _, (query,) = bring(tmp_path, tmp_path / "set")
    assert query.images == (picture(1),)


@pytest.mark.parametrize("name", ["1.png", "pics/1.png", "/data/geometry/pics/1.png"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_images(name: str, packed: bool, tmp_path: Path) -> None:
    """--images names the folder, or the zip archive, that paths start from."""
    where = drawn(tmp_path / "pics", 1)
    if packed:
        where = tmp_path / "pics.zip"
        with zipfile.ZipFile(where, "w") as archive:
            archive.writestr("1.png", picture(1))
    lines(tmp_path / "set" / "train.jsonl", [row(1, name)])
    with pytest.raises(DataError) as refused:
        bring(tmp_path / "x", tmp_path / "set")
    assert any("--images FOLDER" in way for way in refused.value.ways_out)
    _, (query,) = bring(tmp_path, tmp_path / "set", images=(where,))
    assert query.images == (picture(1),)


def test_a_zip_archive_is_a_folder_of_strangers(tmp_path: Path) -> None:
    """Rows of an archive may name its own files, and no others; its entries cannot leave it."""
    secret = drawn(tmp_path / "secret", 2) / "2.png"
    source = tmp_path / "set.zip"
    for image, fine in (("pics/1.png", True), (str(secret), False)):
        with zipfile.ZipFile(source, "w") as archive:
            archive.writestr("train.jsonl", json.dumps(row(1, image)))
            archive.writestr("pics/1.png", picture(1))
        if fine:
            _, (query,) = bring(tmp_path / "a", source)
            assert query.images == (picture(1),)
        else:
            with pytest.raises(DataError, match="1 of 1 rows"):
                bring(tmp_path / "b", source)
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("../train.jsonl", json.dumps(row(1, "1.png")))
    with pytest.raises(DataError, match="leaves its folder"):
        bring(tmp_path / "c", source)


# --- chats -----------------------------------------------------------------------------------

ASKED, SOLVED = "What is the area?", "Base times height. The area is \\boxed{12}"


@pytest.mark.parametrize(
    "made",
    [
        {
            "messages": [
                {"role": "system", "content": "Think."},
                {"role": "user", "content": f"<image>{ASKED}"},
                {"role": "assistant", "content": SOLVED},
            ],
            "images": ["1.png"],
        },
        {
            "conversations": [
                {"from": "human", "value": f"<image>\n{ASKED}"},
                {"from": "gpt", "value": SOLVED},
            ],
            "image": "1.png",
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "1.png"}},
                        {"type": "text", "text": ASKED},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": SOLVED}]},
            ]
        },
        {"texts": [{"user": ASKED, "assistant": SOLVED}], "images": ["1.png"]},
        {
            "conversations": [
                {"from": "user", "value": f"Picture 1: <img>1.png</img>\n{ASKED}"},
                {"from": "assistant", "value": SOLVED},
            ]
        },
        {
            "messages": [{"role": "user", "content": f"<image>{ASKED}"}],
            "images": ["1.png"],
            "solution": "12",
        },
    ],
    ids=["llama-factory", "llava", "parts", "pairs", "qwen", "ms-swift"],
)
def test_chats(made: dict[str, Any], tmp_path: Path) -> None:
    """The user's turn is the question, and the assistant's holds the answer, in every layout."""
    drawn(tmp_path / "set", 1)
    lines(tmp_path / "set" / "train.jsonl", [made])
    _, (query,) = bring(tmp_path, tmp_path / "set")
    assert (query.question, query.answer, query.answer_kind) == (ASKED, "12", "number")
    assert query.images == (picture(1),)


@pytest.mark.parametrize(
    ("said", "answer", "kind"),
    [
        ("The area is 12.", "12", "number"),
        ("It measures 12.5 cm.", "12.5 cm", "number"),
        ("The dog is brown.", "The dog is brown.", "text"),
        ("One side is 3. I cannot see more.", "One side is 3. I cannot see more.", "text"),
    ],
)
def test_an_answer_within_a_sentence(said: str, answer: str, kind: str, tmp_path: Path) -> None:
    """Of a turn of one sentence that ends in a number, the number is the answer."""
    drawn(tmp_path / "set", 1)
    chat = [{"from": "human", "value": f"<image>\n{ASKED}"}, {"from": "gpt", "value": said}]
    lines(tmp_path / "set" / "train.jsonl", [{"conversations": chat, "image": "1.png"}])
    _, (query,) = bring(tmp_path, tmp_path / "set")
    assert (query.answer, query.answer_kind) == (answer, kind)


@pytest.mark.parametrize(
    ("column", "kind"),
    [(["3", "03", "3"], "number"), (["3", "three dogs"], "text"), (["3", None], "number")],
)
def test_several_accepted_answers(column: list[str], kind: str, tmp_path: Path) -> None:
    """A list of accepted answers is kept, and a response that gives any of them is correct."""
    drawn(tmp_path / "set", 1, 2)
    made = [row(1, "1.png"), {"question": "How many?", "answers": column, "image": "2.png"}]
    lines(tmp_path / "set" / "train.jsonl", [made[1]])
    lines(tmp_path / "plain" / "train.jsonl", [made[0] | {"image": "../set/1.png"}])
    _, (plain,) = bring(tmp_path, tmp_path / "plain")
    _, (query,) = bring(tmp_path, tmp_path / "set")
    assert not plain.accepted and (query.answer, query.answer_kind) == ("3", kind)
    accepted = [each for each in dict.fromkeys(column) if each]
    assert [query.answer, *(query.accepted or ())] == accepted
    with MathPool(1) as pool:
        judge = Judge(Policy(), pool).judge_all
        given = [case_of(query, f"Answer: {each}", "stop") for each in (*accepted, "4")]
        assert [each.correct for each in judge(given)] == [True] * len(accepted) + [False]


def test_turns_before_the_question_are_its_context(tmp_path: Path) -> None:
    """Of several turns the last question counts; a chat that does not alternate is named."""
    drawn(tmp_path / "set", 1)
    turns = ["<image>How wide?", "3", "How high?", "4", "And the area?", "The answer is 12."]
    chat = [
        {"role": r, "content": t} for r, t in zip(["user", "assistant"] * 3, turns, strict=True)
    ]
    lines(tmp_path / "set" / "train.jsonl", [{"messages": chat, "images": "1.png"}])
    _, (query,) = bring(tmp_path, tmp_path / "set")
    assert query.question == (
        "User: (image 1) How wide?\nAssistant: 3\n"
        "User: How high?\nAssistant: 4\nUser: And the area?"
    )
    assert query.answer == "12"
    lines(tmp_path / "set" / "train.jsonl", [{"messages": [chat[0], *chat[2:]], "images": "1.png"}])
    with pytest.raises(DataError, match="1 of 1 rows") as refused:
        bring(tmp_path, tmp_path / "set")
    assert "3 user turns that do not alternate" in refused.value.detail


def test_paths_lead_into_lists(tmp_path: Path) -> None:
    """--map takes positions in lists, and says what is there where a path leads nowhere."""
    drawn(tmp_path, 1)
    made = {"talk": [{"says": "How many?"}, {"says": "3"}], "pics": [{"at": "1.png"}]}
    source = lines(tmp_path / "train.jsonl", [made])
    told = "question=talk.0.says,answer=talk.1.says,images=pics.0.at"
    _, (query,) = bring(tmp_path, source, told)
    assert (query.question, query.answer) == ("How many?", "3")
    for path, there in (
        ("talk.0.text", "talk.0 has says"),
        ("talk.2", "talk is a list of 2: 0 to 1"),
    ):
        with pytest.raises(DataError, match="leads nowhere") as refused:
            bring(tmp_path, source, f"question={path},answer=talk.1.says,images=pics.0.at")
        assert there in refused.value.detail


# --- containers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["t.csv", "t.tsv", "semicolons.csv", "t.csv.gz", "t.jsonl.gz", "t.ndjson", "t.data", "t.json"],
)
def test_one_table_many_files(name: str, tmp_path: Path) -> None:
    """CSV, TSV, JSON lines under any name, and gzip hold the same rows."""
    drawn(tmp_path, 1, 2)
    made = [row(1, "1.png"), row(2, "2.png")]
    sep = {"t.tsv": "\t", "semicolons.csv": ";"}.get(name, ",")
    text = "".join(json.dumps(each) + "\n" for each in made)
    if "sv" in name:
        cells = [list(made[0]), *(each.values() for each in made)]
        text = "".join(sep.join(f'"{cell}"' for cell in each) + "\r\n" for each in cells)
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    _, found = bring(tmp_path, tmp_path / name)
    assert [query.answer for query in found] == ["1", "2"]


def test_a_benchmark_in_a_tsv(tmp_path: Path) -> None:
    """Options in columns A, B ..., a hint, images in base64, and a column with the split."""
    encoded = base64.b64encode(picture(1)).decode()
    head = "index\tquestion\thint\tA\tB\tC\tanswer\timage\tsplit\n"
    cells = f"7\tWhich?\tLook.\tred\tblue\t\tB\t{encoded}\tdev\n"
    (tmp_path / "bench.tsv").write_text(head + cells)
    _, (query,) = bring(tmp_path, tmp_path / "bench.tsv", split="")
    assert query.question == "Look.\nWhich?\nA. red\nB. blue"
    assert (query.answer, query.answer_kind) == ("B", "choice")


def test_a_row_of_a_table_that_is_short(tmp_path: Path) -> None:
    """A row with too few cells is named by its line."""
    drawn(tmp_path, 1)
    (tmp_path / "t.csv").write_text("question,answer,image\nHow many?,1,1.png\nWhy?,2\n")
    with pytest.raises(DataError) as refused:
        bring(tmp_path, tmp_path / "t.csv")
    assert "t.csv line 3, line: 2 cells instead of 3" in refused.value.detail


def test_json_with_a_list_for_each_split(tmp_path: Path) -> None:
    """An object with a list for each split gives the splits; keys that name none are asked for."""
    drawn(tmp_path, 1, 2, 3)
    whole = {"train": [row(1, "1.png")], "val": [row(2, "2.png")], "hard": [row(3, "3.png")]}
    (tmp_path / "all.json").write_text(json.dumps(whole))
    with pytest.raises(DataError, match="several lists") as refused:
        bring(tmp_path, tmp_path / "all.json", split="")
    assert refused.value.ways_out == ("Assign each to a split: --split hard=train",)
    made, found = bring(tmp_path, tmp_path / "all.json", split="hard=test")
    assert [query.answer for query in found] == ["1", "2", "3"]
    assert [shard.facts["split"] for shard in made.manifest.shards] == ["train", "dev", "test"]


@pytest.mark.parametrize(
    "whole",
    [
        {"a7": row(1, "1.png"), "a8": row(2, "2.png")},
        {"question": ["?", "!"], "answer": ["1", "2"], "image": ["1.png", "2.png"]},
    ],
    ids=["by id", "by column"],
)
def test_json_objects_that_hold_rows(whole: Any, tmp_path: Path) -> None:
    """Rows by id, and columns as lists, are rows."""
    drawn(tmp_path, 1, 2)
    (tmp_path / "train.json").write_text(json.dumps(whole))
    _, found = bring(tmp_path, tmp_path / "train.json")
    assert [query.answer for query in found] == ["1", "2"]


def test_a_folder_for_each_problem(tmp_path: Path) -> None:
    """A JSON object and its figure in a folder each; marked copies and notes are left out."""
    for split, numbers in (("train", (0, 1, 10)), ("test", (2,))):
        for number in numbers:
            folder = drawn(tmp_path / "set" / split / str(number), number)
            (folder / f"{number}.png").rename(folder / "figure.png")
            (folder / "figure_marked.png").write_bytes(picture(99))
            problem = {"problem_text": f"Find {number}.", "choices": ["5", "6"], "answer": "B"}
            (folder / "problem.json").write_text(json.dumps(problem))
            (folder / "proof.json").write_text('{"steps": []}')
    _, found = bring(tmp_path, tmp_path / "set", split="")
    assert [q.question.partition("\n")[0] for q in found] == [
        *("Find 0.", "Find 1.", "Find 10.", "Find 2.")
    ]
    assert [q.images for q in found] == [(picture(n),) for n in (0, 1, 10, 2)]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    """A file that is not UTF-8 is named, with the option; UTF-16 is recognised by its mark."""
    drawn(tmp_path, 1)
    source = lines(tmp_path / "train.jsonl", [{**row(1, "1.png"), "question": "Größe?"}], encoding)
    if encoding == "latin-1":
        with pytest.raises(DataError, match="No row of train") as refused:
            bring(tmp_path, source)
        assert "--encoding latin-1" in refused.value.detail
    _, (query,) = bring(tmp_path, source, encoding="" if encoding == "utf-16" else encoding)
    assert query.question == "Größe?"


def test_custom_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--rows names a function from a path to rows, for whatever else there is."""
    drawn(tmp_path, 1, 2)
    (tmp_path / "odd.txt").write_text("1.png|How many?|3\n2.png|And here?|4\n")
    (tmp_path / "odd_rows.py").write_text(
        "def rows(path):\n"
        "    for line in path.read_text().splitlines():\n"
        "        yield dict(zip(('image', 'question', 'answer'), line.split('|')))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "odd_rows", raising=False)
    _, found = bring(tmp_path, tmp_path / "odd.txt", rows="odd_rows:rows")
    assert [query.answer for query in found] == ["3", "4"]


# --- answers and marks -----------------------------------------------------------------------


def test_an_index_as_text_is_a_position(tmp_path: Path) -> None:
    """A number as text is an option's position from 0, unless options are numbers themselves."""
    drawn(tmp_path, 1)
    made = row(1, "1.png") | {"choices": ["cat", "dog", "hen"], "answer": "2"}
    _, (query,) = bring(tmp_path / "a", lines(tmp_path / "train.jsonl", [made]))
    assert query.answer == "C"
    numbers = made | {"choices": ["7", "8", "9"]}
    with pytest.raises(DataError, match="1 of 1 rows"):
        bring(tmp_path / "b", lines(tmp_path / "train.jsonl", [numbers]))


@pytest.mark.parametrize(
    "question,images,expected",
    [
        ("<image1>\nHow many?", 1, "How many?"),
        ("Look at <image 1> here.", 1, "Look at (image 1) here."),
        ("Is <image 2> larger than <image 1>?", 2, "Is (image 2) larger than (image 1)?"),
        ("Is <image 2> larger than <image 1>?", 1, "Is (image 2) larger than (image 1)?"),
    ],
)
def test_numbered_marks(question: str, images: int, expected: str, tmp_path: Path) -> None:
    """`<image 2>` becomes `(image 2)`; a mark that only opens the question goes."""
    drawn(tmp_path, *range(images))
    made = row(1, [f"{n}.png" for n in range(images)]) | {"question": question}
    _, (query,) = bring(tmp_path, lines(tmp_path / "train.jsonl", [made]))
    assert query.question == expected


def test_marks_without_an_image(tmp_path: Path) -> None:
    """Marks without numbers are as many as the images, and no mark stands without any image."""
    drawn(tmp_path, 1)
    made = row(1, "1.png") | {"question": "Is <image> larger than <image>?"}
    with pytest.raises(DataError) as refused:
        bring(tmp_path, lines(tmp_path / "train.jsonl", [made]))
    assert "2 marks of images, but 1 images" in refused.value.detail


# --- splits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 5, 8, 12])
def test_no_split_that_is_asked_for_is_empty(count: int, tmp_path: Path) -> None:
    """However few rows there are, each split gets one, the same one each time, and it is said."""
    drawn(tmp_path, *range(count))
    source = lines(tmp_path / "all.jsonl", [row(n, f"{n}.png") for n in range(count)])
    made, _ = bring(tmp_path, source, split="")
    again, _ = bring(tmp_path / "again", source, split="")
    splits = {shard.facts["split"] for shard in made.manifest.shards}
    assert splits == {"train", "dev", "test"}
    assert made.manifest.ref == again.manifest.ref
    asked = bring(tmp_path / "two", source, split="train=99,test=1")[0]
    assert {shard.facts["split"] for shard in asked.manifest.shards} == {"train", "test"}


def test_a_test_part_is_not_dealt_into_train(tmp_path: Path) -> None:
    """A part of a benchmark that is named like a test is the test, unless it is assigned."""
    drawn(tmp_path / "set", *range(9))
    lines(tmp_path / "set" / "testmini.jsonl", [row(n, f"{n}.png") for n in range(9)])
    made, _ = bring(tmp_path, tmp_path / "set", split="")
    assert {shard.facts["split"] for shard in made.manifest.shards} == {"test"}


def test_names_of_splits_that_are_not_there(tmp_path: Path) -> None:
    """--split test=train holds for testmini; a name that nothing has is refused."""
    drawn(tmp_path / "set", 1, 2)
    lines(tmp_path / "set" / "testmini.jsonl", [row(1, "1.png")])
    made, _ = bring(tmp_path, tmp_path / "set", split="test=train")
    assert {shard.facts["split"] for shard in made.manifest.shards} == {"train"}
    with pytest.raises(RecipeError, match="'tesstmini'") as refused:
        bring(tmp_path, tmp_path / "set", split="tesstmini=train")
    assert "testmini.jsonl" in refused.value.detail
    lines(tmp_path / "set" / "testmini.jsonl", [row(1, "1.png") | {"split": "hard"}])
    made, _ = bring(tmp_path, tmp_path / "set", split="hard=dev")
    assert {shard.facts["split"] for shard in made.manifest.shards} == {"dev"}


def test_the_command_that_divides_can_be_pasted(tmp_path: Path) -> None:
    """Without all splits no run is offered, but the import that makes them, with every option."""
    images = drawn(tmp_path / "the images", *range(12))
    made = [{"q": f"How many in {n}?", "answer": str(n), "image": f"{n}.png"} for n in range(12)]
    file = lines(tmp_path / "my set" / "train.jsonl", made)
    store = str(tmp_path / "store")
    words = ["data", "import", str(file), "--name", "mine", "--map", "question=q"]
    done = CliRunner().invoke(app, [*words, "--images", str(images), "--store", store])
    assert done.exit_code == 0, done.output
    assert "iterate" not in done.output and "estimate" not in done.output
    (again,) = re.findall(r"by content: si-ctl (.*)", done.stderr)
    divided = CliRunner().invoke(app, shlex.split(again))
    assert divided.exit_code == 0, divided.output
    assert "12 rows were divided" in divided.stderr and "si-ctl estimate" in divided.stderr


@pytest.mark.parametrize(
    ("names", "shares"),
    [
        (("train", "test"), "train=90,dev=10"),
        (("train", "dev"), "train=90,test=10"),
        (("test",), "train=80,dev=10,test=10"),
    ],
)
def test_a_test_part_stays_where_there_is_train(
    names: tuple[str, ...], shares: str, tmp_path: Path
) -> None:
    """The printed division takes what is missing from train, and leaves the other parts alone."""
    drawn(tmp_path / "set", *range(24))
    for place, name in enumerate(names):
        made = [row(n, f"{n}.png") for n in range(12 * place, 12 * place + 12)]
        lines(tmp_path / "set" / f"{name}.jsonl", made)
    words = ["data", "import", str(tmp_path / "set"), "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(app, words)
    (again,) = re.findall(r"by content: si-ctl (.*)", done.stderr)
    assert f"--split {shares} " in again
    divided = CliRunner().invoke(app, shlex.split(again))
    assert divided.exit_code == 0 and "si-ctl estimate" in divided.stderr
    kept = re.search(r"dev (\d+), test (\d+)", divided.stderr)
    assert (kept and "12" in kept.groups()) or len(names) == 1


def test_files_of_a_command_line(tmp_path: Path) -> None:
    """Several sources are joined, each in its split, and every printed command can be pasted."""
    for number, name in enumerate(("a", "b", "c")):
        drawn(tmp_path / name, number)
        lines(tmp_path / name / "rows.jsonl", [row(number, f"{number}.png")])
    named = [
        f"{s}={tmp_path / n / 'rows.jsonl'}"
        for s, n in zip(("train", "dev", "test"), "abc", strict=True)
    ]
    store = tmp_path / "a store"
    done = CliRunner().invoke(
        app, ["data", "import", *named, "--name", "mine", "--store", str(store)]
    )
    assert done.exit_code == 0, done.output
    assert "3 queries: train 1, dev 1, test 1" in done.output
    address = done.stdout.split()[-1]
    printed = re.findall(r"si-ctl (.*)", done.stderr)
    assert printed and all(address in line and f"--store '{store}'" in line for line in printed)
    wrong = CliRunner().invoke(app, ["data", "import", "hard=x.jsonl", "--store", str(store)])
    assert isinstance(wrong.exception, RecipeError) and "'hard' is not a split" in str(
        wrong.exception
    )


def test_files_left_out_are_named(tmp_path: Path) -> None:
    """A folder with Parquet and JSON lines says which files it does not read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"question": ["?"]}), tmp_path / "a.parquet")
    lines(tmp_path / "b.jsonl", [row(1, "1.png")])
    notes: list[str] = []
    (file,) = find_files(tmp_path, {}, notes=notes)
    assert file.name == "a.parquet" and "Left out: b.jsonl" in notes[0]
