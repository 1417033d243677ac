"""`data import` commits all or nothing, goes on where it was killed, and feeds a run."""

import contextlib
import json
import re
from pathlib import Path

import pytest

from si.config.place import S3, Place
from si.datasets.importing import Source, import_data
from si.datasets.splits import Splits
from si.errors import DataError, RecipeError
from si.report.dataset import inspect
from si.store.artifact import Artifact
from si.store.folder import FolderStore
from si.store.open import open_store
from tests.conftest import BUCKET
from tests.loop.killing import Deaths, Killed
from tests.loop.running import (
    artefacts,
    environment,
    records,
    si_ctl,
    si_ctl_process,
    wreck,
)
from tests.loop.tiny import tiny_recipe
from tests.unit.layouts import hub_parquet, json_lines, picture, rows

KILLER = str(Path(__file__).parents[1] / "loop" / "killer")
SPLITS = {"train": rows(range(40)), "validation": rows(range(40, 50)), "test": rows(range(50, 60))}


def bring(folder, source, **more):
    store = FolderStore(folder / "si-runs")
    opened = Source.open(source, {}, Splits())
    return store, import_data(store, opened, "mine", folder / "si-runs" / "imports", **more)


@pytest.fixture
def bad_source(tmp_path):
    """Three bad rows among sixty, in two files."""
    made = {split: list(each) for split, each in SPLITS.items()}
    made["train"][3] = made["train"][3] | {"answer": ""}
    made["train"][7] = made["train"][7] | {"image": {"bytes": b"\x89PNG nothing", "path": "x"}}
    made["test"][9] = made["test"][9] | {"question": " "}
    return hub_parquet(tmp_path / "s", made)


def test_bad_rows_are_named_and_nothing_is_imported(bad_source, tmp_path):
    """Exit code 3, every bad row with its file, number, field and reason; no data in the store."""
    done = si_ctl("data", "import", "s", cwd=tmp_path, check=False)
    assert done.returncode == 3 and done.stdout == ""
    for words in (
        "3 of 60 rows cannot be used; nothing was imported",
        "data/train-00000-of-00001.parquet row 3, answer: empty answer",
        "data/train-00000-of-00001.parquet row 7, images: undecodable image",
        "data/test-00000-of-00001.parquet row 9, question: empty question",
        "--skip-bad",
    ):
        assert words in done.stderr
    assert not list(FolderStore(tmp_path / "si-runs").list("data"))


def test_skip_bad_counts_and_lists(bad_source, tmp_path):
    """--skip-bad leaves bad rows out and names each; the address alone is the output."""
    done = si_ctl("data", "import", "s", "--skip-bad", cwd=tmp_path)
    assert re.fullmatch(r"data/s-[0-9a-f]{12}\n", done.stdout)
    assert "3 bad rows left out:" in done.stderr
    assert "row 7, images: undecodable image" in done.stderr
    assert "57 queries: train 38, dev 10, test 9" in done.stderr
    again = si_ctl("data", "import", "s", "--skip-bad", "--json", cwd=tmp_path)
    facts = json.loads(again.stdout)
    assert "(already in the store)" in again.stderr
    assert facts["address"] == done.stdout.strip()
    assert [row["field"] for row in facts["bad"]] == ["question", "answer", "images"]


def test_import_that_will_fail_stops_early(tmp_path):
    """With a hundred bad rows found, the rest is not looked at; --skip-bad still counts all."""
    made = [row | {"answer": ""} for row in rows(range(900))] + rows(range(5))
    source = json_lines(tmp_path / "s" / "train.jsonl", made)
    with pytest.raises(DataError, match="at least 256 of 905 rows"):
        bring(tmp_path, source)
    _, imported = bring(tmp_path, source, skip_bad=True)
    assert (len(imported.bad), imported.manifest.rows) == (900, 5)


def test_source_that_changes_is_refused(tmp_path):
    """A row that is another one at the second reading stops the import, and leaves no notes."""
    source = json_lines(tmp_path / "s" / "train.jsonl", rows(range(5)))
    change = tmp_path / "s" / "images" / "3.png"

    def hear(event):
        if event["event"] == "commit":
            change.write_bytes(picture(99))

    with pytest.raises(DataError, match="changed while it was imported"):
        bring(tmp_path, source, on_event=hear)
    assert not list((tmp_path / "si-runs" / "imports").iterdir())
    assert bring(tmp_path, source)[1].manifest.rows == 5


def test_mended_files_are_seen(tmp_path):
    """An image that was missing and now is there, and one that was replaced, are read anew."""
    source = json_lines(tmp_path / "s" / "train.jsonl", rows(range(6)))
    images = tmp_path / "s" / "images"
    (images / "2.png").rename(tmp_path / "2.png")
    with pytest.raises(DataError, match="1 of 6 rows cannot be used") as caught:
        bring(tmp_path, source)
    assert "train.jsonl line 3, images: missing image: no file 'images/2.png'" in str(caught.value)
    (tmp_path / "2.png").rename(images / "2.png")
    _, first = bring(tmp_path, source)
    assert first.manifest.rows == 6 and not first.bad
    assert bring(tmp_path, source)[1].kept
    (images / "4.png").write_bytes(picture(400))
    store, second = bring(tmp_path, source)
    assert second.manifest.spec.address != first.manifest.spec.address
    assert inspect(store, second.manifest.spec.address)["wrong_ids"] == 0


def test_shards_are_bounded(tmp_path, monkeypatch):
    """Shards hold one split each, and no more than the limits of rows and bytes."""
    import si.datasets.import_plan

    monkeypatch.setattr(si.datasets.import_plan, "SHARD_ROWS", 16)
    _, imported = bring(tmp_path, hub_parquet(tmp_path / "s", SPLITS))
    shards = [(s.facts["split"], s.rows) for s in imported.manifest.shards]
    assert shards == [("train", 16), ("train", 16), ("train", 8), ("dev", 10), ("test", 10)]
    monkeypatch.setattr(si.datasets.import_plan, "SHARD_BYTES", 300)
    source = json_lines(tmp_path / "t" / "train.jsonl", rows(range(12)))
    _, imported = bring(tmp_path, source)
    assert len(imported.manifest.shards) > 2


def test_a_bucket_gets_what_a_folder_gets(s3_server, tmp_path):
    """An import into a bucket is the import into a folder: same address, same content."""
    hub_parquet(tmp_path / "s", SPLITS)
    _, ours = bring(tmp_path, tmp_path / "s")
    bucket = open_store(Place(store=f"s3://{BUCKET}/import", s3=S3(endpoint=s3_server)))
    source = Source.open(tmp_path / "s", {}, Splits())
    made = import_data(bucket, source, "mine", tmp_path / "notes")
    assert made.manifest.ref == ours.manifest.ref
    assert inspect(bucket, ours.manifest.spec.address)["wrong_ids"] == 0


def test_killed_import_goes_on(tmp_path):
    """Killed once at every point at which a file appears, an import goes on: the data set is the
    one of an undisturbed import, no shard is doubled, and no record is torn."""
    hub_parquet(tmp_path / "s", SPLITS)
    _, calm = bring(tmp_path / "calm", tmp_path / "s")
    died: set[str] = set()

    def once(point: str) -> bool:
        new = point not in died
        died.add(point)
        return new

    deaths = Deaths(tmp_path / "si-runs", once)
    done = None
    while done is None or deaths.dead:
        assert not wreck(tmp_path / "si-runs")
        deaths.dead = False
        with contextlib.suppress(Killed), deaths.possible():
            done = si_ctl("data", "import", "s", "--name", "mine", cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert len(died) > 15
    same_import(tmp_path, calm, done)


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("n", [5, 7])
def test_import_killed_by_the_kernel_goes_on(n, tmp_path):
    """SIGKILL at every n-th file that appears, again and again: the data set is the one of an
    undisturbed import, no shard is doubled, and no record is torn."""
    hub_parquet(tmp_path / "s", SPLITS)
    _, calm = bring(tmp_path / "calm", tmp_path / "s")
    counter = tmp_path / "counter"
    counter.mkdir()
    deaths = 0
    while True:
        (counter / "points").unlink(missing_ok=True)
        done = si_ctl_process(
            *("data", "import", "s", "--name", "mine"),
            cwd=tmp_path,
            check=False,
            PYTHONPATH=f"{KILLER}:{environment()['PYTHONPATH']}",
            TEST_KILL=f"{counter}:self:{n}",
        )
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        deaths += 1
        assert deaths < 20
    assert deaths >= 2
    same_import(tmp_path, calm, done)


def same_import(folder, calm, done):
    assert done.stdout.strip() == calm.manifest.spec.address
    store = FolderStore(folder / "si-runs")
    killed = Artifact.open(store, calm.manifest.ref)
    assert killed.manifest.content == calm.manifest.content
    assert records(folder / "si-runs") == records(folder / "calm" / "si-runs")
    assert not wreck(folder / "si-runs")


def test_imported_data_run_the_loop(tmp_path):
    """`iterate` on an imported data set measures its levels and runs to a report."""

    def sums(numbers):
        return [
            row | {"question": f"<image>{n}+{n}", "answer": str(2 * n)}
            for n, row in zip(numbers, rows(numbers), strict=True)
        ]

    named = {"train": range(1, 13), "val": range(13, 17), "test": range(17, 21)}
    hub_parquet(tmp_path / "s", {split: sums(numbers) for split, numbers in named.items()})
    address = si_ctl("data", "import", "s", cwd=tmp_path).stdout.strip()
    recipe = tiny_recipe(tmp_path, "synth:embedded", iterations=1)
    settings = ("--set", f"data.source={address}", "--set", "data.schedule=fixed")
    done = si_ctl("iterate", "--recipe", str(recipe), *settings, cwd=tmp_path)
    assert "Report:" in done.stdout
    assert "it00/levels" in artefacts(tmp_path / "si-runs", "sums-gr-k4-s0")


# -- inspect ----------------------------------------------------------------------------------


def test_inspect_counts_what_was_imported(tmp_path):
    """inspect gives lengths, sizes, modes, kinds and images per query by split, and exits 0."""
    splits = dict(SPLITS) | {
        "test": [
            {
                "question": "Which of these?",
                "answer": "x",
                "image": [{"bytes": picture(n, "JPEG", "L"), "path": None} for n in (1, 99)],
            }
        ]
    }
    source = tmp_path / "s"
    for split, made in splits.items():
        hub_parquet(source / split, {split: made})
    store, imported = bring(tmp_path, source)
    facts = inspect(store, imported.manifest.spec.address)
    assert facts["splits"]["test"] == {
        "queries": 1,
        "by_family_and_difficulty": {"mine 0": 1},
        "answer_kinds": {"expression": 1},
        "question_characters": {"smallest": 15, "median": 15, "largest": 15},
        "answer_characters": {"smallest": 1, "median": 1, "largest": 1},
        "images_per_query": {"2": 1},
        "image_sizes": {"smallest": "24 x 16", "median": "24 x 16", "largest": "24 x 16"},
        "image_modes": {"JPEG L": 2},
        "rationales": 0,
    }
    assert facts["splits"]["train"]["image_modes"] == {"PNG RGB": 40}
    assert facts["overlaps"] == {"train and dev": 0, "train and test": 0, "dev and test": 0}
    assert facts["wrong_ids"] == facts["duplicates"] == facts["contradictions"] == 0


def test_inspect_finds_shared_images_and_contradictions(tmp_path):
    """One image in two splits is counted, and so is one question with two answers."""
    made = [*rows([1]), rows([1])[0] | {"answer": "5"}]
    named = {"train": made, "test": [rows([1])[0] | {"question": "Else?"}]}
    store, imported = bring(tmp_path, hub_parquet(tmp_path / "s", named))
    facts = inspect(store, imported.manifest.spec.address)
    assert facts["shared_images"] == {"train and test": 1}
    assert facts["contradictions"] == 1


def test_contact_sheet_escapes_what_it_shows(tmp_path):
    """A sheet holds its pictures and asks nobody for anything; texts from outside are text."""
    hostile = "<script>alert(1)</script><img src=http://x.example/y onerror=alert(2)>"
    made = [row | {"question": hostile + str(n)} for n, row in enumerate(rows(range(30)))]
    store, imported = bring(tmp_path, hub_parquet(tmp_path / "s", {"train": made}))
    address = imported.manifest.spec.address
    done = si_ctl("data", "inspect", address, "--sheet", "sheet.html", cwd=tmp_path)
    assert f"Contact sheet: {tmp_path}/sheet.html" in done.stdout
    inspect(store, address, tmp_path / "sheet.png")
    page = (tmp_path / "sheet.html").read_text()
    assert "<script" not in page and "<img src=http" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("data:image/png;base64,") == 24
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', page)) == {"data:"}
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RecipeError) as refused:
        inspect(store, address, tmp_path / "sheet.pdf")
    assert "F.html or F.png" in refused.value.ways_out[0]
