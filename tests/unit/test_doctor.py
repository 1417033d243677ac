"""Each line of the doctor is fine on a machine that is, and names what is broken elsewhere."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from si.cli import app, doctor
from si.config.place import Place
from si.config.recipe import Recipe, Sampling
from si.machine import gpus, packages
from si.store.folder import FolderStore
from si.store.probe import PASSED, NotExactlyOnce, ensure, probe


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A folder as the store, on a machine without GPUs and with every package."""
    monkeypatch.delenv(gpus.MASK, raising=False)
    monkeypatch.setattr(gpus, "count", lambda: 0)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: name)
    (tmp_path / "runs").mkdir()
    return Place(store=str(tmp_path / "runs"))


def problems(place: Place, recipe: Recipe | None = None) -> dict[str, doctor.Line]:
    """The lines that are not fine, by what they are about."""
    lines = doctor.diagnose(recipe or Recipe(), place)
    return {line.name: line for line in lines if not line.ok}


def test_a_machine_that_is_fine(place: Place) -> None:
    """Every line is ok, and nothing is left in the store."""
    lines = list(doctor.diagnose(Recipe(), place))
    assert [line.name for line in lines] == ["python", "disk", "gpus", "engine", "store"]
    assert all(line.ok and not line.ways_out for line in lines)
    assert list(FolderStore(Path(place.store)).list("")) == []


@pytest.mark.parametrize(
    ("version", "ok"), [((3, 10), 0), ((3, 11), 1), ((3, 13), 1), ((3, 14), 0)]
)
def test_python(version: tuple[int, int], ok: bool) -> None:
    """Versions that are not supported are named with those that are."""
    line = doctor.python(version)
    assert line.ok == bool(ok)
    assert ok or "Python 3.11 to 3.13" in line.ways_out[0]


def test_a_full_disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little space is named with the folder."""
    full = shutil.disk_usage("/")._replace(free=10**8)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: full)
    found = problems(place)
    assert set(found) == {"disk"}
    assert "0.1 GB free" in found["disk"].words and place.store in found["disk"].words


def test_gpus_that_are_not_there(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """More GPUs than the machine has, and fewer by a mask, are named; what is there is shown."""
    more = place.model_copy(update={"gpus": 2})
    assert "asks for 2 GPUs, and this machine has 0" in problems(more)["gpus"].words
    monkeypatch.setattr(gpus, "count", lambda: 4)
    monkeypatch.setattr(gpus, "kind", lambda: "NVIDIA A100")
    assert doctor.devices(more) == "2 of 4 NVIDIA A100"
    monkeypatch.setenv(gpus.MASK, "0")
    assert "CUDA_VISIBLE_DEVICES leaves 1" in problems(more)["gpus"].words


def test_an_engine_that_is_not_installed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's engine is named with the command that installs it; others do not matter."""
    monkeypatch.setattr(
        packages.importlib.util, "find_spec", lambda name: None if name == "vllm" else name
    )
    assert problems(place) == {}
    found = problems(place, Recipe(sampling=Sampling(engine="vllm")))
    assert set(found) == {"engine"}
    assert "vllm" in found["engine"].words and "Install: " in found["engine"].ways_out[0]


def test_a_store_that_overwrites(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store in which several writers win is named; the doctor and the controller refuse it."""

    def careless(self: FolderStore, address: str, data: bytes) -> bool:
        self.put(address, data) if not self.exists(address) else None
        return True

    store = FolderStore(Path(place.store))
    ensure(store)
    assert store.exists(PASSED)
    store.delete(PASSED)
    monkeypatch.setattr(FolderStore, "create", careless)
    assert "lets 16 of 16 writers create one object" in problems(place)["store"].words
    for check in (probe, ensure):
        with pytest.raises(NotExactlyOnce):
            check(store)
    assert not store.exists(PASSED)


def test_a_store_whose_answers_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store is sound even if the winner never learns that it has won."""
    create = FolderStore.create

    def forgetful(self: FolderStore, address: str, data: bytes) -> bool:
        create(self, address, data)
        return False

    monkeypatch.setattr(FolderStore, "create", forgetful)
    probe(FolderStore(tmp_path))


def test_a_store_that_cannot_be_made(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that does not exist is fine if it can be created."""
    new = place.model_copy(update={"store": place.store + "/a/b"})
    assert problems(new) == {} and not Path(new.store).exists()
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert "no permission to write" in problems(new)["store"].words


def test_the_command(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints a line each, and its exit code says whether there is a problem."""
    words = ["doctor", "--store", place.store]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and done.output.count("ok ") == 5
    done = CliRunner().invoke(app, [*words, "--set", "place.gpus=9", "--json"])
    assert done.exit_code == 1
    assert [line["ok"] for line in json.loads(done.output)] == [True, True, False, True, True]
    shown = CliRunner().invoke(app, [*words, "--set", "place.gpus=9"]).output
    assert "PROBLEM  gpus" in shown and "Lower place.gpus." in shown
