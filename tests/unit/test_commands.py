"""Commands end to end, in this process: what they write, refuse, list and remove."""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from si.cli import main
from si.clusters.local import exclusive
from si.config.loading import load
from si.datasets.sources import fetch
from si.errors import OutputError, RunMissing
from si.loop import conclude
from si.machine.files import output
from si.run import Run
from si.runs.record import begin
from si.runs.status import entries, find_run, runs
from si.store.folder import FolderStore
from si.store.keys import Spec
from tests.loop.inline import InlineCluster
from tests.loop.running import records
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
    """--force replaces a file, also through a symbolic link, and leaves no file behind but those
    that belong to it."""
    suffix = SUFFIXES.get(command, ".html")
    target, link = tmp_path / f"target{suffix}", tmp_path / f"link{suffix}"
    target.write_text("mine")
    link.symlink_to(target)
    code, error = run([*words_of(command, place, str(link)), "--force"], capsys)
    assert code == 0, error
    assert link.is_symlink() and target.read_text() != "mine"
    names = {path.name for path in tmp_path.iterdir()}
    beside = {"report": {"link.md", "link.json"}, "rebalance": {"link.trl.yaml"}}
    assert names == {target.name, link.name} | beside.get(command, set())


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
    path = tmp_path / "x.txt"
    with pytest.raises(OutputError, match="exists"), output(path) as file:
        path.write_text("theirs")
        file.write(b"ours")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"x.txt": "theirs"}


# --- a store with several runs -------------------------------------------------------------------


@pytest.fixture
def copied(place: Place, tmp_path: Path) -> Path:
    """A copy of the store, which a test may change."""
    return Path(shutil.copytree(place.store, tmp_path / "copied"))


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that succeeds prints."""
    capsys.readouterr()
    try:
        main(words)
    except SystemExit as end:
        assert not end.code
    return capsys.readouterr().out


def test_an_empty_run_does_not_take_a_strategys_name(
    copied: Path, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that failed before its first iteration leaves its strategy's name to the other one."""
    store = FolderStore(copied)
    recipe, _ = load(place.recipe, {"strategy": "vanilla", "k": 2}, environment={})
    begin(store, "failed", recipe)
    for words in (["status", "vanilla"], ["report", "vanilla"], ["compare", "vanilla", "rp"]):
        assert ONE in printed([*words, "--store", str(copied)], capsys)
    assert find_run(store, "failed") == "failed"
    generation = begin(store, "second", recipe)
    conclude(Run("second", recipe, store, InlineCluster(store), generation))
    with pytest.raises(RunMissing, match="2 runs have the strategy vanilla"):
        find_run(store, "vanilla")


def test_data_sets_are_listed_and_found_by_name(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """`data list` has every address with its splits, and `inspect` takes a name as well."""
    store = ["--store", str(place.store)]
    (found,) = json.loads(printed(["data", "list", "--json", *store], capsys))
    assert found["address"] == place.data
    assert found["splits"] == {"train": 24, "dev": 8, "test": 8}
    assert place.data in printed(["data", "list", *store], capsys)
    by_name = printed(["data", "inspect", "sums", "--json", *store], capsys)
    assert json.loads(by_name)["address"] == place.data
    code, error = run(["data", "inspect", "geometry", *store], capsys)
    assert code == 3 and "No data set geometry" in error and place.data in error


def test_logs_of_a_run_on_this_machine(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --stage the last stage with logs is shown, one worker after the other; control
    characters are not."""
    store = FolderStore(copied)
    at = entries(store, ONE)
    folder = copied / "logs" / ONE
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for entry, worker, text in (
        ("it01/explore", 0, "first\n"),
        ("it01/evaluate", 0, "second\n"),
        ("it01/evaluate", 10, "fourth \x1b[31m\n"),
        ("it01/evaluate", 2, "third\nhalf a li"),
    ):
        spec = Spec.load(store, at[entry])
        name = f"{spec.stage}-{spec.name}-{spec.key[:12]}-w{worker}.log"
        (folder / name).write_text(text)
    words = ["logs", ONE, "--store", str(copied)]
    lines_ = [line.rpartition(" | ")[2] for line in printed(words, capsys).splitlines()]
    assert lines_ == ["second", "third", "fourth �[31m"]
    assert printed([*words, "--stage", "it01/explore"], capsys) == "first\n"
    assert printed([*words, "--follow"], capsys).count("\n") == 3  # nobody works on it: it ends
    code, error = run([*words, "--stage", "it01/train"], capsys)
    assert code == 3 and "stages with logs: it01/explore, it01/evaluate" in error


class Idle:
    """A cluster that is asked for nothing."""

    def run(self, entry: str, spec: Spec, on_event: object) -> None:
        raise AssertionError(f"{entry} was computed again")


def test_rm_removes_a_run_and_keeps_artefacts(
    copied: Path, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's records go, its artefacts stay; those that no other run uses are named. The same
    recipe restores the run without computing anything."""
    store = FolderStore(copied)
    at = entries(store, ONE)
    before = set(at.values())
    shared = set(entries(store, OTHER).values())
    records_before = records(copied)
    (removed,) = json.loads(printed(["rm", ONE, "--json", "--store", str(copied)], capsys))
    assert runs(store) == [OTHER] and not list(store.list(f"runs/{ONE}"))
    unused = {each["address"] for each in removed["unused"]}
    # The rest is reached from the other run: equal contents lead to one artefact.
    assert {at["it01/report"]} <= unused <= before - shared
    assert all(each["bytes"] > 0 for each in removed["unused"])
    assert records(copied) == records_before
    recipe, _ = load(place.recipe, {"strategy": "vanilla", "iterations": 1}, environment={})
    generation = begin(store, ONE, recipe)
    conclude(Run(ONE, recipe, store, Idle(), generation))
    assert set(entries(store, ONE).values()) == before


def test_without_what_rm_names_other_runs_are_complete(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Artefacts that `rm` names can be deleted: the other run is still reported and exported."""
    store = ["--store", str(copied)]
    (removed,) = json.loads(printed(["rm", ONE, "--json", *store], capsys))
    for each in removed["unused"]:
        shutil.rmtree(copied / each["address"])
    for words in (["status", OTHER], ["report", OTHER], ["diagnose", OTHER, "--json"]):
        assert printed([*words, *store], capsys)
    printed(["export", OTHER, *store, "--out", str(tmp_path / "policy")], capsys)


def test_gc_deletes_what_a_removed_run_leaves(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --delete, and within a week, all stays; then it goes, and the other run is whole."""
    store = ["--store", str(copied)]
    (removed,) = json.loads(printed(["rm", ONE, "--json", *store], capsys))
    before = tree(copied)
    said = printed(["gc", "--days", "0", *store], capsys)
    assert "Nothing was deleted" in said and "artefacts that no run refers to" in said
    assert "There was nothing" in printed(["gc", "--delete", *store], capsys)
    assert tree(copied) == before
    found = json.loads(printed(["gc", "--days", "0", "--json", *store], capsys))
    unused = {each["address"] for each in removed["unused"]}
    assert {each["address"] for each in found["garbage"]} == unused
    printed(["gc", "--days", "0", "--delete", *store], capsys)
    assert not any((copied / address / "manifest.json").exists() for address in unused)
    printed(["export", OTHER, *store, "--out", str(tmp_path / "policy")], capsys)
    said = printed(["check", OTHER, *store], capsys)
    assert "read and compared" in said


def test_check_names_what_is_damaged(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 3, the artefact by its address, and which file it is."""
    address = entries(FolderStore(copied), ONE)["it01/train"]
    (path,) = (copied / address / "data").glob("*/config.json")
    path.write_bytes(path.read_bytes() + b" ")
    code, error = run(["check", ONE, "--store", str(copied)], capsys)
    assert code == 3 and address in error and "1 artefact of" in error
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["check", ONE, "--json", "--store", str(copied)])
    found = {each["address"]: each["problem"] for each in json.loads(capsys.readouterr().out)}
    assert "config.json is damaged" in found[address]
    assert [bad for bad, problem in found.items() if problem] == [address]


def test_rm_of_an_unknown_or_busy_run_removes_nothing(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names are checked before anything goes; a strategy is not a name; a run at work stays."""
    store = FolderStore(copied)
    for names in ([ONE, "nope"], ["vanilla"]):
        code, error = run(["rm", *names, "--store", str(copied)], capsys)
        assert code == 3 and "No run is called" in error
    with exclusive(store.url, ONE):
        code, error = run(["rm", ONE, "--store", str(copied)], capsys)
    assert code == 4 and ONE in error
    assert runs(store) == [OTHER, ONE]


def test_set_takes_null_and_refuses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """`--set x=null` sets null, `--set x=` is an error, and errors name what was typed."""
    words = ["config", "show", "--recipe", "qwen2-vl-7b-k8", "--json"]
    assert json.loads(printed(words, capsys))["train"]["lora"]
    changed = json.loads(printed([*words, "--set", "train.lora=null"], capsys))
    assert changed["train"]["lora"] is None
    for text, said in (
        ("data.source=", "has no value"),
        ("train.lr=abc", "train.lr (from --set)"),
        ("lr=1", "did you mean train.lr?"),
        ("train.learning_rate=1", "did you mean train.lr?"),
    ):
        code, error = run(["config", "check", "--set", text], capsys)
        assert code == 3 and said in error, error
    code, error = run(["estimate", "--assume", "pass_rate="], capsys)
    assert code == 3 and "--assume 'pass_rate=' has no value" in error


def test_verify_takes_several_files_and_folders(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each file gets its figures, and with --out its verdicts in that folder; a total follows."""
    out = tmp_path / "judged"
    words = ["verify", str(place.rollouts), "--out", str(out)]
    code, error = run(words, capsys)
    assert code == 2 and "does not exist" in error
    out.mkdir()
    said = printed(words, capsys)
    assert "All 2 files: " in said and "2.jsonl:" in said
    assert sorted(path.name for path in out.iterdir()) == ["1.jsonl", "2.jsonl"]
    code, error = run(words, capsys)
    assert code == 2 and "exists already" in error
    files = [str(place.rollouts / name) for name in ("1.jsonl", "2.jsonl")]
    assert len(json.loads(printed(["verify", *files, "--json"], capsys))) == 2


def test_config_takes_recipes_as_every_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    """`--recipe NAME` and `NAME` mean the same; check takes several."""
    option = printed(["config", "show", "--recipe", "embedded"], capsys)
    assert option == printed(["config", "show", "embedded"], capsys)
    several = printed(["config", "check", "embedded", "qwen2-vl-7b-k8"], capsys)
    assert [line.endswith("s0") for line in several.splitlines()] == [True, True]
    code, error = run(["config", "show", "embedded", "--recipe", "embedded"], capsys)
    assert code == 2 and "give the recipe once" in error
