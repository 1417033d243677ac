"""Garbage collection and checking: what runs refer to stays whole, whatever happens meanwhile."""

import json
import random
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from si.errors import ArtifactDamaged
from si.runs import garbage
from si.runs.check import check
from si.runs.garbage import ARTEFACT, ATTEMPTS, CHECKPOINTS, delete_garbage, find_garbage
from si.runs.references import referenced
from si.store.artifact import Artifact
from si.store.commit import Output, announce, commit_shard, finish, load_manifest
from si.store.folder import FolderStore
from si.store.keys import Ref, Spec, canonical, sealed
from si.store.port import Store

LATER = time.time() + 1000  # everything is old enough


def artefact(store: Store, number: int, inputs: list[Ref], whole: bool = True) -> Ref:
    """An artefact of two shards, of which one was computed twice."""
    roles = {f"input-{i}": ref for i, ref in enumerate(inputs)}
    spec = Spec("train", f"a{number}", {}, {"number": number}, roles, shards=2)
    announce(store, spec)
    for shard in (0, 1, 1) if whole else (0,):
        files = {"weights": f"{number} {shard}".encode(), "config.json": b"{}"}
        commit_shard(store, spec, shard, Output(files, 1))
    made = finish(store, spec)
    return made.ref if made else Ref(spec.address, "?")


def entry(store: Store, run: str, number: int, address: str) -> None:
    pointer = canonical(sealed({"stage": "train", "address": address, "key": "k"}))
    store.put(f"runs/{run}/it{number:02d}/train.json", pointer)


class World:
    """A store with artefacts that use one another, some of which runs point to."""

    def __init__(self, folder: Path, seed: int):
        self.store = FolderStore(folder)
        made = random.Random(seed)
        self.all: list[Ref] = []
        for number in range(8):
            inputs = made.sample(self.all, min(len(self.all), made.randint(0, 2)))
            self.all.append(artefact(self.store, number, inputs, whole=made.random() > 0.2))
            # Nothing is computed from what is incomplete.
            whole = [r for r in self.all if r.content != "?"]
            self.whole, self.all = whole, whole
        for number, ref in enumerate(made.sample(self.whole, min(2, len(self.whole)))):
            entry(self.store, f"r{number}", number, ref.address)
        self.used = referenced(self.store, {})

    def usable(self) -> bool:
        """Whether every artefact that a run refers to reads as it was committed."""
        for address in self.used:
            opened = Artifact.open(self.store, address)
            for shard in (0, 1):
                assert opened.read("config.json", shard) == b"{}"
        return True

    def addresses(self) -> list[str]:
        return list(self.store.list(""))


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), kill=st.integers(0, 60))
def test_what_runs_refer_to_survives_even_a_kill(tmp_path_factory, seed, kill):
    """After a kill at any deletion, runs' artefacts are whole, and the same call finishes."""
    world = World(tmp_path_factory.mktemp("world"), seed)
    calm = World(tmp_path_factory.mktemp("calm"), seed)
    delete_garbage(calm.store, find_garbage(calm.store, LATER), pause=0)
    deletions = iter(range(1000))
    delete = world.store.delete

    def dying(address: str) -> None:
        if next(deletions) >= kill:
            raise InterruptedError
        delete(address)

    world.store.delete = dying
    with suppress(InterruptedError):
        delete_garbage(world.store, find_garbage(world.store, LATER), pause=0)
    assert world.usable()
    for ref in world.whole:  # what is half gone is never taken for complete
        spec = Spec.load(world.store, ref.address) if _has_spec(world.store, ref) else None
        if spec and finish(world.store, spec):
            assert Artifact.open(world.store, ref.address).read("config.json", 1) == b"{}"
    world.store.delete = delete
    delete_garbage(world.store, find_garbage(world.store, LATER), pause=0)
    assert world.usable() and not find_garbage(world.store, LATER)
    strip = [a.rpartition("/data/")[0] or a for a in world.addresses() if "provenance" not in a]
    calm_strip = [a.rpartition("/data/")[0] or a for a in calm.addresses() if "provenance" not in a]
    assert strip == calm_strip


def _has_spec(store: Store, ref: Ref) -> bool:
    return store.exists(f"{ref.address}/spec.json")


def test_each_kind_is_found_and_the_young_stay(tmp_path):
    """Lost attempts and checkpoints go at once; an artefact without a run only when it is old."""
    store = FolderStore(tmp_path)
    data = artefact(store, 1, [])
    policy, lonely = artefact(store, 2, [data]), artefact(store, 3, [])
    entry(store, "r", 1, policy.address)
    for name in ("00000001-0123456789ab.0of1", "00000001-0123456789ab/0/state"):
        store.put(f"{policy.address}/checkpoints/{name}", b"state")
    open_one = artefact(store, 4, [], whole=False)
    entry(store, "r", 2, open_one.address)
    store.put(f"{open_one.address}/checkpoints/00000001-0123456789ab.0of1", b"in use")
    young = find_garbage(store, time.time() - 100)
    kinds = {(each.kind, each.address) for each in young}
    assert kinds == {
        (ATTEMPTS, data.address),
        (ATTEMPTS, policy.address),
        (CHECKPOINTS, policy.address),
    }
    found = find_garbage(store, LATER)
    assert {each.address for each in found if each.kind == ARTEFACT} == {lonely.address}
    assert all(each.size > 0 and each.files for each in found)
    assert delete_garbage(store, found, pause=0) == found
    left = list(store.list(""))
    assert not any(address.startswith(lonely.address) for address in left)
    assert sum("checkpoints" in address for address in left) == 1


def test_an_artefact_that_a_run_begins_to_use_gets_its_manifest_back(tmp_path, monkeypatch):
    """The run has seen the manifest just before it was deleted, and writes its entry."""
    store = FolderStore(tmp_path)
    lonely = artefact(store, 1, [])
    found = find_garbage(store, LATER)

    def meanwhile(seconds: float) -> None:
        assert seconds == garbage.PAUSE
        assert load_manifest(store, Spec.load(store, lonely.address)) is None
        entry(store, "r", 1, lonely.address)

    monkeypatch.setattr(garbage.time, "sleep", meanwhile)
    assert delete_garbage(store, found) == []
    assert Artifact.open(store, lonely).read("weights", 1) == b"1 1"


def test_nothing_is_deleted_where_references_are_not_known(tmp_path):
    """A damaged entry, or a damaged spec of what a run refers to, stops it before it begins."""
    store = FolderStore(tmp_path)
    used = artefact(store, 1, [])
    artefact(store, 2, [])
    entry(store, "r", 1, used.address)
    (tmp_path / "runs/r/it01/train.json").write_text("{}")
    before = list(store.list(""))
    with pytest.raises(ArtifactDamaged):
        find_garbage(store, LATER)
    entry(store, "r", 1, used.address)
    (tmp_path / used.address / "spec.json").write_text(json.dumps({"stage": "train"}))
    with pytest.raises(ArtifactDamaged):
        find_garbage(store, LATER)
    assert list(store.list("")) == before


def test_every_flipped_byte_of_a_run_is_found(tmp_path):
    """Data of the run itself and of what it was computed from; the others are still read."""
    store = FolderStore(tmp_path / "store")
    first = artefact(store, 1, [])
    second = artefact(store, 2, [first])
    entry(store, "run", 1, second.address)
    begun = canonical(sealed({"recipe": {}, "generation": 1}))
    store.put("runs/run/run-g01.json", begun)
    assert [each.problem for each in check(store, "run", tmp_path)] == ["", ""]
    assert not (tmp_path / "file").exists()
    (blob, *_) = Artifact.open(store, first).blobs()
    path = store.root / first.address / blob.path
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1, *data[1:]]))
    found = {each.address: each for each in check(store, "run", tmp_path)}
    assert "damaged" in found[first.address].problem and not found[second.address].problem
    path.unlink()
    found = {each.address: each for each in check(store, "run", tmp_path)}
    assert "no" in found[first.address].problem and found[second.address].files == 4
