"""Addresses, stage keys, shard records, manifests: how every artefact commits exactly once.

An artefact is what one stage makes. It lies at `<folder>/<legible name>-<key12>/`:

    spec.json                 what the stage is: its key's preimage and its inputs' addresses
    data/<shard>-<attempt>/   files, under names no other attempt uses
    shards/00000.json         the shard record; created, never overwritten: the first wins
    manifest.json             all shard records, folded; its existence means the stage is whole
    provenance/<shard>-<attempt>.json  times, versions, machine; no part of the content digest

The first, third and fourth are records: JSON with a digest over themselves, so that damage
is found before anything is built on it.

The protocol is that of docs/operations.md, "Commit".
"""

import hashlib
import io
import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from si.errors import ArtifactDamaged, ArtifactMissing, SiError
from si.ports import Store, checked

T = TypeVar("T")

# Raise a stage's number when its output changes for equal inputs: old artefacts
# then stay what they are and new runs compute their own.
SCHEMA_VERSIONS = {
    "synth": 1,
    "import": 1,
    "fetch": 1,
    "levels": 1,
    "explore": 1,
    "verify": 1,
    "resample": 1,
    "rebalance": 1,
    "train": 1,
    "evaluate": 1,
    "report": 2,
}
FOLDERS = {"synth": "data", "import": "data", "fetch": "policies"}
FILES_AT_ONCE = 4
PARQUET = {"compression": "zstd", "version": "2.6", "write_statistics": False}


def canonical(value: Any) -> bytes:
    """JSON with one spelling: sorted keys, no spaces, no NaN."""
    # Keys that are no strings become such first: 10 sorts after 9, but "10" before "9".
    value = json.loads(json.dumps(value, allow_nan=False))
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with a digest over itself."""
    return record | {"digest": digest(record)}


@dataclass(frozen=True, slots=True)
class Ref:
    """A committed artefact, as other stages name it: where it lies and what it holds."""

    address: str
    content: str


@dataclass(frozen=True)
class Spec:
    """A stage to do, or done. Only `stage`, its schema version, `settings`, `params` and the
    inputs' content digests make its key; addresses and the number of shards follow from them.

    Attributes:
        settings: the recipe fields that the stage reads, and no others.
        params: what the loop hands in: iteration, round, k, slice.
        inputs: artefacts that it reads, by role.
        schema: the stage's schema version; 0 stands for the current one.
    """

    stage: str
    name: str
    settings: Mapping[str, Any]
    params: Mapping[str, Any]
    inputs: Mapping[str, Ref]
    shards: int = 1
    schema: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "schema", self.schema or SCHEMA_VERSIONS[self.stage])

    @property
    def key(self) -> str:
        """SHA-256 (hex) that identifies what this stage computes."""
        return digest(
            {
                "stage": self.stage,
                "schema": self.schema,
                "settings": self.settings,
                "params": self.params,
                "inputs": {role: ref.content for role, ref in self.inputs.items()},
            }
        )

    @property
    def address(self) -> str:
        """`<folder>/<legible name>-<key12>`."""
        folder = FOLDERS.get(self.stage, f"pool/{self.stage}")
        return f"{folder}/{self.name}-{self.key[:12]}"

    def to_json(self) -> dict[str, Any]:
        return sealed(
            {
                "stage": self.stage,
                "schema": self.schema,
                "key": self.key,
                "name": self.name,
                "settings": self.settings,
                "params": self.params,
                "inputs": {
                    role: {"address": ref.address, "content": ref.content}
                    for role, ref in self.inputs.items()
                },
                "shards": self.shards,
            }
        )

    @classmethod
    def load(cls, store: Store, address: str) -> "Spec":
        """Read `<address>/spec.json`; a spec whose key is not its address's is refused."""

        def build(raw: dict[str, Any]) -> tuple["Spec", str]:
            spec = cls(
                stage=raw["stage"],
                name=raw["name"],
                settings=raw["settings"],
                params=raw["params"],
                inputs={role: Ref(**ref) for role, ref in raw["inputs"].items()},
                shards=raw["shards"],
                schema=raw["schema"],
            )
            return spec, spec.address

        spec, own = read_record(store, f"{address}/spec.json", build)
        if own != address:
            raise ArtifactDamaged(
                f"The spec at {address} is not the one that its address promises",
                f"expected {address}\n     got {own}",
                "Was it written by another version of si-ctl? Use the version that began this run.",
            )
        return spec


@dataclass(frozen=True, slots=True)
class Blob:
    """One file of an artefact: its logical name, its path below the artefact, size and SHA-256."""

    name: str
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ShardRecord:
    """What a won shard is: the attempt that won, its files, its rows, its facts."""

    shard: int
    attempt: str
    rows: int
    blobs: tuple[Blob, ...]
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return sealed(
            {
                "shard": self.shard,
                "attempt": self.attempt,
                "rows": self.rows,
                "blobs": [
                    {"name": b.name, "path": b.path, "size": b.size, "sha256": b.sha256}
                    for b in self.blobs
                ],
                "facts": self.facts,
            }
        )

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "ShardRecord":
        return cls(
            shard=raw["shard"],
            attempt=raw["attempt"],
            rows=raw["rows"],
            blobs=tuple(Blob(**blob) for blob in raw["blobs"]),
            facts=raw["facts"],
        )


@dataclass(frozen=True)
class Manifest:
    """A whole artefact. Its bytes depend on the spec and the shard records alone."""

    spec: Spec
    shards: tuple[ShardRecord, ...]

    @property
    def rows(self) -> int:
        return sum(record.rows for record in self.shards)

    @property
    def content(self) -> str:
        """SHA-256 over what was computed: names, sizes and hashes of files, rows and facts of
        each shard. Attempts, paths, times and machines have no part in it."""
        return digest(
            [
                {
                    "rows": record.rows,
                    "files": [[b.name, b.size, b.sha256] for b in record.blobs],
                    "facts": record.facts,
                }
                for record in self.shards
            ]
        )

    @property
    def ref(self) -> Ref:
        return Ref(self.spec.address, self.content)

    @property
    def facts(self) -> dict[str, Any]:
        """The shards' facts: numbers added up, everything else of the first shard that has it."""
        total: dict[str, Any] = {}
        for record in self.shards:
            for name, value in record.facts.items():
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if number and name in total:
                    total[name] += value
                else:
                    total.setdefault(name, value)
        return total

    def to_json(self) -> dict[str, Any]:
        return sealed(
            {
                "stage": self.spec.stage,
                "schema": self.spec.schema,
                "key": self.spec.key,
                "inputs": {role: ref.content for role, ref in self.spec.inputs.items()},
                "rows": self.rows,
                "content": self.content,
                "shards": [record.to_json() for record in self.shards],
            }
        )


def settle(store: Store, address: str, data: bytes) -> tuple[bool, bytes]:
    """Create `address` and say what stands there now.

    A lost answer to a won put looks like a defeat; reading what is there tells:
    one's own bytes mean won. Returns (won, bytes that stand).
    """
    if store.create(address, data):
        return True, data
    standing = store.get(address)
    return standing == data, standing


def announce(store: Store, spec: Spec) -> None:
    """Put the spec, so that workers and readers find it; the first one stands."""
    settle(store, f"{spec.address}/spec.json", canonical(spec.to_json()))


def shard_address(address: str, shard: int) -> str:
    return f"{address}/shards/{shard:05d}.json"


@dataclass
class Output:
    """What a stage function made for one shard.

    Attributes:
        files: logical name -> a table (stored as Parquet), bytes, or a local file.
        rows: rows, examples or queries: whatever the stage counts.
        facts: deterministic figures; they are part of the content.
        provenance: times and the like; they are not.
        after: called once the shard is committed, whoever's is the one that stands.
    """

    files: dict[str, pa.Table | bytes | Path]
    rows: int
    facts: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    after: Callable[[], None] | None = None


def encode_table(table: pa.Table) -> bytes:
    """Parquet bytes that depend on the table and the pyarrow version alone."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **PARQUET)
    return sink.getvalue()


def commit_shard(store: Store, spec: Spec, shard: int, output: Output) -> bool:
    """Put a shard's files under this attempt's name, then its record; True if this attempt won.

    Losers delete nothing: what they wrote is unreferenced, for `gc` to find.
    """
    attempt = uuid.uuid4().hex[:12]

    def put(name: str, value: pa.Table | bytes | Path) -> Blob:
        path = f"data/{shard:05d}-{attempt}/{name}"
        if isinstance(value, Path):
            with ThreadPool(1) as beside:  # it is hashed while it is on its way
                hashed = beside.apply_async(_sha256, (value,))
                store.put(f"{spec.address}/{path}", value)
                return Blob(name, path, value.stat().st_size, hashed.get())
        data = encode_table(value) if isinstance(value, pa.Table) else value
        store.put(f"{spec.address}/{path}", data)
        return Blob(name, path, len(data), hashlib.sha256(data).hexdigest())

    with ThreadPool(FILES_AT_ONCE) as pool:
        blobs = pool.starmap(put, sorted(output.files.items()), chunksize=1)
    record = ShardRecord(shard, attempt, output.rows, tuple(blobs), output.facts)
    store.put(f"{spec.address}/provenance/{shard:05d}-{attempt}.json", canonical(output.provenance))
    won, _ = settle(store, shard_address(spec.address, shard), canonical(record.to_json()))
    return won


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_record(store: Store, address: str, build: Callable[[dict[str, Any]], T]) -> T:
    """What `build` makes of a record, once its seal is found whole."""
    data = store.get(address)
    try:
        raw = json.loads(data)
        expected, got = raw.pop("digest"), digest(raw)
        if expected == got:
            return build(raw)
    except (AttributeError, KeyError, TypeError, ValueError):
        expected, got = "a sealed record", repr(data[:60])
    raise ArtifactDamaged(
        f"The record {store.url.rstrip('/')}/{address} is damaged",
        f"expected {expected}\n     got {got}",
        REPAIR,
    )


REPAIR = (
    "Put the object back from a backup or an older version of it, and run the same command again.",
    "Or compute the run anew, beside the old one: the same command with --fresh.",
)


def committed(store: Store, address: str) -> set[int]:
    """Numbers of the shards that have a record."""
    prefix = f"{address}/shards"
    names = (entry.rsplit("/", 1)[-1] for entry in store.list(prefix))
    return {int(name[:-5]) for name in names if re.fullmatch(r"[0-9]{5,}\.json", name)}


def finish(store: Store, spec: Spec) -> Manifest | None:
    """Fold the shard records into the manifest if all are there; anybody may call it."""
    if len(committed(store, spec.address) & set(range(spec.shards))) < spec.shards:
        return None
    records = tuple(
        read_record(store, shard_address(spec.address, shard), ShardRecord.from_json)
        for shard in range(spec.shards)
    )
    manifest = Manifest(spec, records)
    settle(store, f"{spec.address}/manifest.json", canonical(manifest.to_json()))
    return load_manifest(store, spec)


def load_manifest(store: Store, spec: Spec) -> Manifest | None:
    """The manifest, or None while the stage is not whole.

    Raises:
        ArtifactDamaged: if it does not hold together, or belongs to another key.
    """
    address = f"{spec.address}/manifest.json"
    if not store.exists(address):
        return None

    def build(raw: dict[str, Any]) -> tuple[Manifest, tuple[str, str]]:
        shards = tuple(ShardRecord.from_json(record) for record in raw["shards"])
        return Manifest(spec, shards), (raw["key"], raw["content"])

    manifest, got = read_record(store, address, build)
    if got != (spec.key, manifest.content):
        raise ArtifactDamaged(
            f"The manifest {store.url.rstrip('/')}/{address} belongs to something else",
            f"expected key {spec.key}, content {manifest.content}\n"
            f"     got key {got[0]}, content {got[1]}",
            REPAIR,
        )
    return manifest


class Artifact:
    """A committed artefact, for reading. Every read checks size and SHA-256."""

    def __init__(self, store: Store, manifest: Manifest):
        self.store = store
        self.manifest = manifest
        self.address = manifest.spec.address

    @classmethod
    def open(cls, store: Store, ref: Ref | str) -> "Artifact":
        """Open by address; with a `Ref`, its content digest has to be the recorded one."""
        address = ref if isinstance(ref, str) else ref.address
        spec = Spec.load(store, address)
        manifest = load_manifest(store, spec)
        if manifest is None:
            raise ArtifactMissing(
                f"The artefact {address} is not whole: it has no manifest",
                f"in {store.url}",
                "Run the command that makes it again; it resumes.",
            )
        if isinstance(ref, Ref) and ref.content != manifest.content:
            raise ArtifactDamaged(
                f"The artefact {address} is not the one that was used before",
                f"expected content {ref.content[:12]}\n     got content {manifest.content[:12]}",
                REPAIR,
            )
        return cls(store, manifest)

    def blobs(self, shard: int | None = None) -> Iterable[Blob]:
        for record in self.manifest.shards:
            if shard is None or record.shard == shard:
                yield from record.blobs

    def _blob(self, name: str, shard: int) -> Blob:
        for blob in self.blobs(shard):
            if blob.name == name:
                return blob
        raise ArtifactMissing(f"The artefact {self.address} has no file {name} in shard {shard}")

    def _checked(self, blob: Blob, receive: Callable[[str], tuple[int, str]]) -> None:
        """Have a blob's address received, and hold its size and SHA-256 against the record."""
        address = f"{self.address}/{blob.path}"
        promised = f"expected {blob.size} bytes, sha256 {blob.sha256}"
        try:
            size, sha256 = receive(address)
        except ArtifactMissing as error:
            raise ArtifactMissing(
                error.headline, f"{promised}\n     got no such file", REPAIR
            ) from error
        if (size, sha256) != (blob.size, blob.sha256):
            raise ArtifactDamaged(
                f"The file {self.store.url.rstrip('/')}/{address} is damaged",
                f"{promised}\n     got {size} bytes, sha256 {sha256}",
                REPAIR,
            )

    def read(self, name: str, shard: int = 0) -> bytes:
        """A file's bytes, checked."""
        data = b""

        def receive(address: str) -> tuple[int, str]:
            nonlocal data
            data = self.store.get(address)
            return len(data), hashlib.sha256(data).hexdigest()

        self._checked(self._blob(name, shard), receive)
        return data

    def json(self, name: str, shard: int = 0) -> Any:
        return json.loads(self.read(name, shard))

    def table(self, name: str, shard: int = 0, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file as a table; `columns` keeps memory to what is needed."""
        data = self.read(name, shard)
        return pq.read_table(pa.BufferReader(data), columns=columns)

    def tables(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """The tables of all shards that have a file `name`, one after the other."""
        parts = [
            self.table(name, record.shard, columns)
            for record in self.manifest.shards
            if any(blob.name == name for blob in record.blobs)
        ]
        if not parts:
            raise ArtifactMissing(f"The artefact {self.address} has no file {name}")
        return pa.concat_tables(parts)

    def download(self, folder: Path, shard: int = 0) -> Path:
        """All files of a shard into `folder`, several at once, hashed while they stream."""
        for blob in self.blobs(shard):
            try:
                checked(f"{self.address}/{blob.name}")
            except SiError as error:
                raise ArtifactDamaged(
                    f"The artefact {self.address} names a file that would lie outside its folder",
                    f"expected a name, got {blob.name!r}",
                ) from error
            (folder / blob.name).parent.mkdir(parents=True, exist_ok=True)

        def receive(blob: Blob) -> None:
            self._checked(blob, partial(self.store.fetch, path=folder / blob.name))

        # Unlike those of concurrent.futures, its threads keep no interrupted process from ending.
        with ThreadPool(FILES_AT_ONCE) as pool:
            for _ in pool.imap(receive, self.blobs(shard)):
                pass
        return folder
