"""Keys, commits and damage: what an artefact promises, on a folder."""

import hashlib
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import si
from si.config.loading import load
from si.config.place import Place
from si.errors import ArtifactDamaged, ArtifactMissing
from si.store.artifact import Artifact
from si.store.commit import (
    Blob,
    Manifest,
    Output,
    ShardRecord,
    announce,
    commit_shard,
    committed,
    finish,
    load_manifest,
    settle,
    shard_address,
)
from si.store.folder import FolderStore
from si.store.keys import Ref, Spec, canonical, digest

SPEC = Spec(
    stage="explore",
    name="it01-base",
    settings={"seed": 7, "sampling": {"temperature": 1.0, "max_new_tokens": 64}},
    params={"iteration": 1, "round": 1, "k": 8},
    inputs={"data": Ref("data/tiles-0123456789ab", "d" * 64)},
    shards=2,
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


def output(shard: int = 0) -> Output:
    table = pa.table({"query_id": ["a", "b"], "k": pa.array([shard, 3], pa.int32())})
    return Output(
        {"rows.parquet": table, "sub/notes.txt": b"notes %d" % shard},
        rows=2,
        facts={"samples": 16, "split": "train", "losses": [0.5, 1e-9]},
        provenance={"seconds": 1.5},
    )


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def whole(store: FolderStore) -> Artifact:
    """A committed artefact of two shards."""
    announce(store, SPEC)
    for shard in range(SPEC.shards):
        commit_shard(store, SPEC, shard, output(shard))
    finish(store, SPEC)
    return Artifact.open(store, SPEC.address)


# Canonical JSON and keys


def test_canonical_json_is_pinned() -> None:
    """The spelling that every key rests on never changes: a literal digest says so."""
    value = {"b": [1, 1.0, 1e-9, True, None], "a": {"ü": "\n\u2028", "10": 2, "9": 1}}
    assert canonical(value).decode() == (
        '{"a":{"10":2,"9":1,"ü":"\\n\u2028"},"b":[1,1.0,1e-09,true,null]}'
    )
    assert digest(value) == "854a5108eae38694f5591ba574db6c290befe33bdc1d4b02cc021696b7d51a4e"


def test_a_key_is_pinned() -> None:
    """A stage's key and address are what they were when this test was written."""
    assert SPEC.key == "daaccc2fb86ea4afaf3cf3e5ac28375a72a8cff544c5cf501fcbf3d4c1e1403f"
    assert SPEC.address == f"pool/explore/it01-base-{SPEC.key[:12]}"


@settings(max_examples=50)
@given(JSON)
def test_canonical_json_survives_being_read(value: Any) -> None:
    """Reading canonical JSON and writing it again changes no byte, so records keep their seals."""
    assert canonical(json.loads(canonical(value))) == canonical(value)


@given(st.dictionaries(st.integers() | st.booleans(), st.integers(), max_size=6))
def test_keys_that_are_no_strings_are_spelt_one_way(value: dict[Any, int]) -> None:
    """Facts by number have the digest that they have after being stored and read."""
    assert digest(value) == digest(json.loads(canonical(value)))


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers()), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, int], random: Any) -> None:
    """Two dictionaries with equal items have one spelling."""
    items = list(value.items())
    random.shuffle(items)
    assert canonical(dict(items)) == canonical(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": -math.inf}])
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    """NaN and infinity raise instead of becoming a key nobody can read."""
    with pytest.raises(ValueError):
        canonical(value)


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "train"},
        {"settings": {**SPEC.settings, "seed": 8}},
        {"params": {**SPEC.params, "k": 16}},
        {"inputs": {"data": Ref("data/tiles-0123456789ab", "e" * 64)}},
        {"inputs": {"policy": SPEC.inputs["data"]}},
    ],
    ids=["stage", "seed", "params", "content", "role"],
)
def test_what_is_computed_makes_the_key(change: dict[str, Any]) -> None:
    """Another stage, recipe seed, parameter, input content or role is another artefact."""
    assert replace(SPEC, **change).key != SPEC.key


def test_where_inputs_lie_does_not_make_the_key() -> None:
    """An input moved to another address, a legible name, the shards: the key stays."""
    moved = {"data": Ref("data/renamed-ffffffffffff", "d" * 64)}
    assert replace(SPEC, inputs=moved, name="other", shards=5).key == SPEC.key


def test_facts_of_shards_are_added_or_agree() -> None:
    """Counts add up over shards; a value on which shards differ is left out, not the first one."""
    given = [{"n": 2, "kind": "a", "share": 0.25, "ok": True}, {"n": 3, "kind": "a", "share": 0.5}]
    records = tuple(ShardRecord(i, "x", 0, (), facts) for i, facts in enumerate(given))
    assert Manifest(SPEC, records).facts == {"n": 5, "kind": "a", "ok": True}


def test_a_schema_version_makes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raising a stage's number gives new addresses, and the package's version has no part."""
    before = SPEC.key
    monkeypatch.setattr(si, "__version__", "99", raising=False)
    assert SPEC.key == before
    assert replace(SPEC, schema=2).key != before


def test_an_artefact_outlives_its_schema_version(store: FolderStore) -> None:
    """What was committed under an earlier number is read as what it is, at the address it has."""
    old = replace(SPEC, schema=7, shards=1)
    announce(store, old)
    commit_shard(store, old, 0, Output({}, 0))
    made = finish(store, old)
    assert made is not None
    assert Artifact.open(store, made.ref).manifest.spec == old


def test_a_place_makes_no_recipe() -> None:
    """Bucket, workers and retries leave the recipe, and so every key, as it is."""
    one, _ = load(environment={})
    other, place = load(
        flags={"place.store": "s3://b/p", "place.workers": 7, "place.retries": 0}, environment={}
    )
    assert place == Place(store="s3://b/p", workers=7, retries=0)
    assert digest(one.model_dump(mode="json")) == digest(other.model_dump(mode="json"))


# Commits


def test_settle_says_who_won(store: FolderStore) -> None:
    """The first bytes stand; bringing the same bytes again counts as won, others as lost."""
    assert settle(store, "a", b"1") == (True, b"1")
    assert settle(store, "a", b"2") == (False, b"1")
    assert settle(store, "a", b"1") == (True, b"1")


@given(st.lists(st.binary(max_size=3), min_size=1, max_size=6))
def test_settle_lets_the_first_stand(contenders: list[bytes]) -> None:
    """Whoever comes in whatever order: all are told the first one's bytes."""

    class Memory:
        def __init__(self) -> None:
            self.data: dict[str, bytes] = {}

        def create(self, address: str, data: bytes) -> bool:
            return self.data.setdefault(address, data) is data

        def get(self, address: str) -> bytes:
            return self.data[address]

    memory: Any = Memory()
    for data in contenders:
        assert settle(memory, "a", data) == (data == contenders[0], contenders[0])


def test_of_two_attempts_the_first_wins(store: FolderStore) -> None:
    """The second attempt at a shard loses, deletes nothing, and no trace of it is in the record."""
    assert commit_shard(store, SPEC, 0, output())
    record = store.get(shard_address(SPEC.address, 0))
    assert not commit_shard(store, SPEC, 0, Output({"other.txt": b"late"}, rows=9))
    assert store.get(shard_address(SPEC.address, 0)) == record
    assert len({a.split("/")[4] for a in store.list(f"{SPEC.address}/data")}) == 2
    assert b"other.txt" not in record


def test_a_stage_is_whole_when_its_last_shard_is_in(store: FolderStore) -> None:
    """finish gives nothing, and writes nothing, until every shard has a record."""
    announce(store, SPEC)
    for shard in (1, 0):
        assert finish(store, SPEC) is None
        assert load_manifest(store, SPEC) is None
        with pytest.raises(ArtifactMissing, match="is incomplete"):
            Artifact.open(store, SPEC.address)
        commit_shard(store, SPEC, shard, output(shard))
    manifest = finish(store, SPEC)
    assert manifest is not None
    assert (manifest.rows, manifest.facts["samples"], manifest.facts["split"]) == (4, 32, "train")


def test_records_are_told_from_what_lies_beside_them(store: FolderStore) -> None:
    """Only `<number>.json` is a shard record, also past 99999."""
    for name in ("00000.json", "123456.json", "00001.json.bak", "x.json", "00002", "1.json"):
        store.put(f"{SPEC.address}/shards/{name}", b"")
    assert committed(store, SPEC.address) == {0, 123456}


def test_a_manifest_is_the_same_whoever_writes_it(store: FolderStore, whole: Artifact) -> None:
    """Two processes that fold the same records write the same bytes, so either may."""
    bytes_before = store.get(f"{SPEC.address}/manifest.json")
    (store.root / SPEC.address / "manifest.json").unlink()
    moved = replace(SPEC, inputs={"data": Ref("data/elsewhere", "d" * 64)})
    assert finish(store, moved) is not None
    assert store.get(f"{SPEC.address}/manifest.json") == bytes_before


def test_content_does_not_depend_on_attempts(tmp_path: Path) -> None:
    """The same computation in two stores has one content digest, whatever the attempts' names."""
    contents, records = set(), set()
    for name in "ab":
        store = FolderStore(tmp_path / name)
        for shard in range(2):
            commit_shard(store, SPEC, shard, output(shard))
            records.add(store.get(shard_address(SPEC.address, shard)))
        manifest = finish(store, SPEC)
        assert manifest is not None
        contents.add(manifest.content)
    assert (len(contents), len(records)) == (1, 4)


def test_what_was_put_in_is_read_out(whole: Artifact, tmp_path: Path) -> None:
    """Tables, bytes and files come back by name and shard, from the store and as a folder."""
    assert whole.table("rows.parquet", 1).to_pylist()[0] == {"query_id": "a", "k": 1}
    assert whole.tables("rows.parquet", ["k"])["k"].to_pylist() == [0, 3, 1, 3]
    folder = whole.download(tmp_path / "folder", 1)
    assert (folder / "sub/notes.txt").read_bytes() == b"notes 1" == whole.read("sub/notes.txt", 1)
    with pytest.raises(ArtifactMissing, match=r"no file nothing\.txt"):
        whole.read("nothing.txt")


def test_a_record_cut_short_by_kill_never_wins(store: FolderStore) -> None:
    """kill -9 in the middle of writing a shard record: the shard is open, the next attempt wins."""
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from si.store.folder import FolderStore\nfrom tests.unit.test_artifacts import *\n"
        "class Dying(FolderStore):\n"
        "    def create(self, address, data):\n"
        "        os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
        "        return super().create(address, data)\n"
        "commit_shard(Dying(Path(sys.argv[1])), SPEC, 0, output())\n"
    )
    root = Path(si.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code, str(store.root)], cwd=root)
    assert run.returncode == -9
    assert len(list(store.list(f"{SPEC.address}/data"))) == 2  # it came as far as its record
    assert committed(store, SPEC.address) == set()
    assert commit_shard(store, SPEC, 0, output())


# Damage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other(path: Path) -> None:
    path.write_text('["something", "else"]')


DAMAGES = pytest.mark.parametrize("damage", [flip, truncate, empty, other])
Damage = Callable[[Path], None]


@DAMAGES
def test_a_damaged_file_is_named(whole: Artifact, damage: Damage, tmp_path: Path) -> None:
    """Reading and downloading a damaged file say which, what was promised and what came."""
    blob = next(iter(whole.blobs(1)))
    path = Path(whole.store.url) / whole.address / blob.path
    damage(path)
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    for read in (
        lambda: whole.read(blob.name, 1),
        lambda: whole.table(blob.name, 1),
        lambda: whole.download(tmp_path / "folder", 1),
    ):
        with pytest.raises(ArtifactDamaged) as caught:
            read()
        words = str(caught.value)
        assert str(path) in words and blob.sha256 in words and got in words


@pytest.mark.parametrize("name", ["spec.json", "manifest.json"])
@DAMAGES
def test_a_damaged_record_is_named(whole: Artifact, name: str, damage: Damage) -> None:
    """A spec or manifest that was touched is refused by name before anything is read."""
    damage(Path(whole.store.url) / whole.address / name)
    with pytest.raises(ArtifactDamaged) as caught:
        Artifact.open(whole.store, whole.manifest.ref)
    words = str(caught.value)
    assert f"{whole.address}/{name}" in words and "expected" in words and "got" in words


@DAMAGES
def test_a_damaged_shard_record_makes_no_manifest(store: FolderStore, damage: Damage) -> None:
    """A shard record that was touched is named, and no manifest is ever built on it."""
    for shard in range(2):
        commit_shard(store, SPEC, shard, output(shard))
    address = shard_address(SPEC.address, 1)
    damage(store.root / address)
    with pytest.raises(ArtifactDamaged) as caught:
        finish(store, SPEC)
    words = str(caught.value)
    assert address in words and "expected" in words and "got" in words
    assert not store.exists(f"{SPEC.address}/manifest.json")


def test_any_flipped_bit_of_a_record_is_found(whole: Artifact) -> None:
    """There is no byte of a manifest in which a flipped bit goes unnoticed."""
    path = Path(whole.store.url) / whole.address / "manifest.json"
    sound = path.read_bytes()
    for place in range(0, len(sound), 7):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises(ArtifactDamaged):
            load_manifest(whole.store, SPEC)


@pytest.mark.parametrize("name", ["spec.json", "rows.parquet"])
def test_a_deleted_file_is_named(whole: Artifact, name: str, tmp_path: Path) -> None:
    """What was deleted is missing by name, with what was promised where that is known."""
    (path,) = sorted(Path(whole.store.url).rglob(name))[:1]
    path.unlink()
    with pytest.raises(ArtifactMissing, match=str(path)) as caught:
        Artifact.open(whole.store, SPEC.address).download(tmp_path / "folder", 0)
        Artifact.open(whole.store, SPEC.address).download(tmp_path / "folder", 1)
    if name != "spec.json":
        assert next(iter(whole.blobs())).sha256 in str(caught.value)


def test_a_deleted_manifest_comes_back_the_same(store: FolderStore, whole: Artifact) -> None:
    """A manifest is folded again from its records, to the same content."""
    (store.root / whole.address / "manifest.json").unlink()
    manifest = finish(store, SPEC)
    assert manifest is not None and manifest.ref == whole.manifest.ref


def test_an_artefact_computed_anew_is_not_the_one_that_was_used(whole: Artifact) -> None:
    """A reader that recorded a content digest refuses an artefact that has another."""
    with pytest.raises(ArtifactDamaged, match=r"(?s)used before.*expected content 000000.*got"):
        Artifact.open(whole.store, Ref(whole.address, "0" * 64))


def test_a_spec_at_a_wrong_address_is_refused(store: FolderStore, whole: Artifact) -> None:
    """A sound spec copied to another artefact's address is not taken for that one's."""
    store.put(
        "pool/explore/it01-base-000000000000/spec.json", store.get(f"{SPEC.address}/spec.json")
    )
    with pytest.raises(ArtifactDamaged, match=SPEC.address):
        Spec.load(store, "pool/explore/it01-base-000000000000")


def test_a_manifest_of_another_key_is_refused(store: FolderStore, whole: Artifact) -> None:
    """A sound manifest copied below another spec is not taken for that one's."""
    other = replace(SPEC, params={"iteration": 2})
    store.put(f"{other.address}/manifest.json", store.get(f"{SPEC.address}/manifest.json"))
    with pytest.raises(ArtifactDamaged, match=other.key):
        load_manifest(store, other)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", ""])
def test_no_file_is_written_outside_the_folder(
    store: FolderStore, name: str, tmp_path: Path
) -> None:
    """A record, sound in itself, whose file name climbs out of the folder is refused."""
    store.put(f"{SPEC.address}/data/x", b"evil")
    blob = Blob(name, "data/x", 4, hashlib.sha256(b"evil").hexdigest())
    manifest = Manifest(SPEC, (ShardRecord(0, "x", 1, (blob,), {}),))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ArtifactDamaged, match="outside its folder"):
        Artifact(store, manifest).download(tmp_path / "folder")
    assert set(tmp_path.rglob("*")) - {tmp_path / "folder"} == before


@given(st.binary(max_size=40), st.data())
def test_bytes_that_are_no_record_are_damage(junk: bytes, data: st.DataObject) -> None:
    """Whatever bytes stand where a record should: the error is ArtifactDamaged and no other."""

    class Junk:
        url = "junk"

        def get(self, address: str) -> bytes:
            return value

        def exists(self, address: str) -> bool:
            return True

    value = data.draw(st.just(junk) | JSON.map(canonical))
    store: Any = Junk()
    for read in (lambda: load_manifest(store, SPEC), lambda: Spec.load(store, SPEC.address)):
        with pytest.raises(ArtifactDamaged):
            read()


def test_hidden_files_of_a_model_come_along(store: FolderStore, tmp_path: Path) -> None:
    """A policy's `.gitattributes` is a file like others."""
    one = replace(SPEC, shards=1)
    announce(store, one)
    commit_shard(store, one, 0, Output({".gitattributes": b"* text"}, rows=1))
    finish(store, one)
    folder = Artifact.open(store, one.address).download(tmp_path / "folder")
    assert (folder / ".gitattributes").read_bytes() == b"* text"


def test_names_of_attempts_never_meet(store: FolderStore) -> None:
    """Every attempt writes under a name of its own."""
    for _ in range(5):
        commit_shard(store, SPEC, 0, Output({"f": b"same"}, rows=1))
    attempts = [address.split("/")[4] for address in store.list(f"{SPEC.address}/data")]
    assert all(one != other for one, other in itertools.combinations(attempts, 2))
