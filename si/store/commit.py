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
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from si.errors import ArtifactDamaged
from si.store.keys import REPAIR, Ref, Spec, canonical, digest, read_record, sealed
from si.store.port import Store

FILES_AT_ONCE = 4
PARQUET = {"compression": "zstd", "version": "2.6", "write_statistics": False}


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
        """The shards' facts as one: counts (whole numbers) added up, anything else if all shards
        that have it agree. A value that differs, such as a share, is left out rather than wrong."""
        total: dict[str, Any] = {}
        differing = set()
        for record in self.shards:
            for name, value in record.facts.items():
                if name not in total:
                    total[name] = value
                elif isinstance(value, int) and not isinstance(value, bool):
                    total[name] += value
                elif total[name] != value:
                    differing.add(name)
        return {name: value for name, value in total.items() if name not in differing}

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
