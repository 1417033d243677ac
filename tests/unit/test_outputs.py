"""Commands that write: completely or not at all, never over a file by accident, no tracebacks."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from si.cli import main
from si.config.loading import load
from si.datasets.sources import fetch
from si.loop import conclude
from si.machine.files import output
from si.run import Run
from si.runs.record import begin
from si.store.folder import FolderStore
from tests.loop.inline import InlineCluster
from tests.loop.scripted import write_policy
from tests.loop.tiny import tiny_data, tiny_recipe
from tests.unit.rollout_files import lines, verl

ONE, OTHER = "sums-vanilla-k4-s0", "sums-rp-k4-s0"
FILE_FAULTS = ("under a file", "unwritable", "missing folder", "a folder", "exists", "full")
STORE_FAULTS = ("under a file", "unwritable", "a file", "full")


class Place(NamedTuple):
    """A store with two runs and a data set, and rollouts of another tool."""

    store: Path
    rollouts: Path
    recipe: Path
    data: str
    rows: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("outputs")
    store = FolderStore(folder / "si-runs")
    source = fetch(store, str(write_policy(folder / "policy", 0.6))).spec.address
    data = tiny_data(store)
    path = tiny_recipe(folder, data, model={"source": source})
    for strategy in ("vanilla", "rp"):
        recipe, _ = load(path, {"strategy": strategy, "iterations": 1}, environment={})
        generation = begin(store, recipe.run_name, recipe)
        conclude(Run(recipe.run_name, recipe, store, InlineCluster(store), generation))
    Image.new("RGB", (32, 32), "red").save(folder / "red.png")
    rows = [{"question": f"{i} + 1?", "answer": str(i + 1), "image": "red.png"} for i in range(9)]
    lines(folder / "rows.jsonl", rows)
    return Place(store.root, verl(folder / "verl"), path, data, folder / "rows.jsonl")


def words_of(command: str, place: Place, out: str) -> list[str]:
    """A command that writes the file or folder `out`."""
    store, one = ["--store", str(place.store)], str(place.rollouts / "1.jsonl")
    return {
        "diagnose": ["diagnose", str(place.rollouts), "--out", out],
        "rebalance": ["rebalance", str(place.rollouts), "--out", out],
        "verify": ["verify", one, "--out", out],
        "report": ["report", ONE, *store, "--out", out],
        "compare": ["compare", ONE, OTHER, *store, "--out", out],
        "export": ["export", ONE, *store, "--out", out],
        "data inspect": ["data", "inspect", place.data, *store, "--sheet", out],
        "iterate": ["iterate", "--recipe", str(place.recipe), "--store", out],
        "data synth": ["data", "synth", "--store", out],
        "data import": ["data", "import", str(place.rows), "--split", "train", "--store", out],
        "fetch": ["fetch", "--store", out],
    }[command]


SUFFIXES = {"rebalance": ".jsonl", "verify": ".jsonl", "export": ""}
TO_A_FILE = ("diagnose", "rebalance", "verify", "report", "compare", "export", "data inspect")
TO_A_STORE = ("iterate", "data synth", "data import", "fetch")


@contextmanager
def full_disk() -> Iterator[None]:
    """No file grows beyond a few bytes; a limit on sizes is reported as a full disk is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code of a command, and its error stream."""
    capsys.readouterr()
    try:
        main(words)
    except SystemExit as end:
        return int(end.code or 0), capsys.readouterr().err
    return 0, capsys.readouterr().err


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with the bytes of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("fault", FILE_FAULTS)
@pytest.mark.parametrize("command", TO_A_FILE)
def test_a_path_that_cannot_be_written_is_one_sentence(
    command: str, fault: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 for a path that cannot be written, 4 for a full disk; nothing is left or changed."""
    suffix = SUFFIXES.get(command, ".html")
    (tmp_path / "letters.txt").write_text("dear")
    out = {
        "under a file": tmp_path / "letters.txt" / f"x{suffix}",
        "unwritable": Path(f"/proc/x{suffix}"),
        "missing folder": tmp_path / "no" / f"x{suffix}",
        "a folder": tmp_path / f"folder{suffix}",
        "exists": tmp_path / f"there{suffix}",
        "full": tmp_path / f"x{suffix}",
    }[fault]
    if fault == "a folder":
        out.mkdir()
        (out / "mine").write_text("mine")
    if fault == "exists":
        out.write_text("mine")
    before = tree(tmp_path)
    if fault == "full":
        with full_disk():
            code, error = run(words_of(command, place, str(out)), capsys)
    else:
        code, error = run(words_of(command, place, str(out)), capsys)
    assert code == (4 if fault == "full" else 2), error
    assert len(error.strip().splitlines()[0]) > 10 and "Traceback" not in error
    assert "What to try" in error
    assert tree(tmp_path) == before


@pytest.mark.parametrize("fault", STORE_FAULTS)
@pytest.mark.parametrize("command", TO_A_STORE)
def test_a_store_that_cannot_be_written_is_one_sentence(
    command: str, fault: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 for a store that cannot be a folder of ours, 4 for a full disk."""
    (tmp_path / "letters.txt").write_text("dear")
    store = {
        "under a file": tmp_path / "letters.txt" / "store",
        "unwritable": Path("/proc/x/store"),
        "a file": tmp_path / "letters.txt",
        "full": tmp_path / "store",
    }[fault]
    words = words_of(command, place, str(store))
    if fault == "full":
        with full_disk():
            code, error = run(words, capsys)
    else:
        code, error = run(words, capsys)
    assert code == (4 if fault == "full" else 2), error
    assert "Traceback" not in error and "What to try" in error
    assert (tmp_path / "letters.txt").read_text() == "dear"


@pytest.mark.parametrize("command", [c for c in TO_A_FILE if c != "export"])
def test_force_replaces_a_file(
    command: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--force replaces a file, also through a symbolic link, and leaves no other file behind."""
    suffix = SUFFIXES.get(command, ".html")
    target, link = tmp_path / f"target{suffix}", tmp_path / f"link{suffix}"
    target.write_text("mine")
    link.symlink_to(target)
    code, error = run([*words_of(command, place, str(link)), "--force"], capsys)
    assert code == 0, error
    assert link.is_symlink() and target.read_text() != "mine"
    names = {path.name for path in tmp_path.iterdir()}
    beside = {"link.md", "link.json"} if command == "report" else set()
    assert names == {target.name, link.name} | beside


def test_a_device_is_never_replaced(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """--force does not turn a device into a file."""
    code, error = run(["diagnose", str(place.rollouts), "--out", "/dev/null", "--force"], capsys)
    assert code == 2 and "not a regular file" in error
    assert not Path("/dev/null").is_file()


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    """A file appears when all of it is written; an error half-way leaves the old one."""
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), output(path, force=True) as file:
        file.write(b"half")
        _ = 1 / 0
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"x.txt": "old"}


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    """Without --force a file that another process wrote in the meantime stays."""
    from si.errors import OutputError

    path = tmp_path / "x.txt"
    with pytest.raises(OutputError, match="exists"), output(path) as file:
        path.write_text("theirs")
        file.write(b"ours")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"x.txt": "theirs"}
