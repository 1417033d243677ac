"""Shard records and manifests: how every artefact commits exactly once.

An artefact is the result of one stage, at `<folder>/<legible name>-<key12>/`:

    spec.json                 what the stage computes: its key's preimage and its inputs' addresses
    data/<shard>-<attempt>/   files, under names that no other attempt uses
    shards/00000.json         the shard record; created, never overwritten: the first attempt wins
    manifest.json             all shard records together; it exists when the stage is complete
    provenance/<shard>-<attempt>.json  times, versions, machine; not part of the content digest

The first, third and fourth are records: JSON with a digest over themselves, so that damage is
detected before anything is built on it.

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
    """A committed shard: the attempt that won, its files, number of rows and facts."""

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
    """A complete artefact. Its bytes depend only on the spec and the shard records."""

    spec: Spec
    shards: tuple[ShardRecord, ...]

    @property
    def rows(self) -> int:
        """Number of rows over all shards."""
        return sum(record.rows for record in self.shards)

    @property
    def content(self) -> str:
        """SHA-256 over what was computed: for each shard the names, sizes and hashes of files, the
        number of rows and the facts. Attempts, paths, times and machines are not included."""
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
        """The reference by which other stages name it."""
        return Ref(self.spec.address, self.content)

    @property
    def facts(self) -> dict[str, Any]:
        """The shards' facts combined: whole numbers (counts) are summed, other values kept if all
        shards agree. A value that differs, such as a share, is left out."""
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
    """Create `address`, or read what is there already.

    If the answer to a successful request was lost, a retry finds the address taken. So the bytes
    that are there decide: equal bytes count as success.

    Returns:
        Whether this attempt's bytes are there, and the bytes that are there.
    """
    if store.create(address, data):
        return True, data
    standing = store.get(address)
    return standing == data, standing


def announce(store: Store, spec: Spec) -> None:
    """Store the spec, so that workers and readers find it; the first one stays."""
    settle(store, f"{spec.address}/spec.json", canonical(spec.to_json()))


def shard_address(address: str, shard: int) -> str:
    """The address of a shard's record."""
    return f"{address}/shards/{shard:05d}.json"


@dataclass
class Output:
    """The result of a stage function for one shard.

    Attributes:
        files: logical name -> a table (stored as Parquet), bytes, or a local file.
        rows: number of rows, examples or queries, as the stage counts.
        facts: deterministic figures, part of the content.
        provenance: times and similar, not part of the content.
        after: called after the shard is committed, by this attempt or another.
    """

    files: dict[str, pa.Table | bytes | Path]
    rows: int
    facts: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    after: Callable[[], None] | None = None


def encode_table(table: pa.Table) -> bytes:
    """Parquet bytes that depend only on the table and the pyarrow version."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **PARQUET)
    return sink.getvalue()


def commit_shard(store: Store, spec: Spec, shard: int, output: Output) -> bool:
    """Store a shard's files under this attempt's name, then its record; True if this attempt won.

    Losers delete nothing: their files stay, unreferenced.
    """
    attempt = uuid.uuid4().hex[:12]

    def put(name: str, value: pa.Table | bytes | Path) -> Blob:
        path = f"data/{shard:05d}-{attempt}/{name}"
        if isinstance(value, Path):
            with ThreadPool(1) as beside:  # hash it during the upload
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
    """Write the manifest if all shard records exist; returns it, or None. Any process may call
    it."""
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
    """The manifest, or None while the stage is incomplete.

    Raises:
        ArtifactDamaged: if it is inconsistent, or belongs to another key.
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
            f"The manifest {store.url.rstrip('/')}/{address} belongs to another artefact",
            f"expected key {spec.key}, content {manifest.content}\n"
            f"     got key {got[0]}, content {got[1]}",
            REPAIR,
        )
    return manifest
