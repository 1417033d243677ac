"""Reading a committed artefact; every read checks size and SHA-256."""

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from si.errors import ArtifactDamaged, ArtifactMissing, SiError
from si.store.commit import FILES_AT_ONCE, Blob, Manifest, load_manifest
from si.store.keys import REPAIR, Ref, Spec
from si.store.port import Store, checked


class Artifact:
    """A committed artefact, for reading. Every read checks size and SHA-256."""

    def __init__(self, store: Store, manifest: Manifest):
        self.store = store
        self.manifest = manifest
        self.address = manifest.spec.address

    @classmethod
    def open(cls, store: Store, ref: Ref | str) -> "Artifact":
        """Open by address. With a `Ref`, the content digest must match.

        Raises:
            ArtifactMissing: if it is incomplete.
            ArtifactDamaged: if the content digest differs.
        """
        address = ref if isinstance(ref, str) else ref.address
        spec = Spec.load(store, address)
        manifest = load_manifest(store, spec)
        if manifest is None:
            raise ArtifactMissing(
                f"Artefact {address} is incomplete: it has no manifest",
                f"in {store.url}",
                "Run the command that computes it again; it resumes.",
            )
        if isinstance(ref, Ref) and ref.content != manifest.content:
            raise ArtifactDamaged(
                f"Artefact {address} is not the one that was used before",
                f"expected content {ref.content[:12]}\n     got content {manifest.content[:12]}",
                REPAIR,
            )
        return cls(store, manifest)

    def blobs(self, shard: int | None = None) -> Iterable[Blob]:
        """The records of all files, or of one shard's."""
        for record in self.manifest.shards:
            if shard is None or record.shard == shard:
                yield from record.blobs

    def _blob(self, name: str, shard: int) -> Blob:
        for blob in self.blobs(shard):
            if blob.name == name:
                return blob
        raise ArtifactMissing(f"Artefact {self.address} has no file {name} in shard {shard}")

    def _checked(self, blob: Blob, receive: Callable[[str], tuple[int, str]]) -> None:
        """Read a file with `receive`, and compare its size and SHA-256 with the record."""
        address = f"{self.address}/{blob.path}"
        promised = f"expected {blob.size} bytes, sha256 {blob.sha256}"
        try:
            size, sha256 = receive(address)
        except ArtifactMissing as error:
            raise ArtifactMissing(
                error.headline, f"{promised}\n     got nothing", REPAIR
            ) from error
        if (size, sha256) != (blob.size, blob.sha256):
            raise ArtifactDamaged(
                f"The file {self.store.url.rstrip('/')}/{address} is damaged",
                f"{promised}\n     got {size} bytes, sha256 {sha256}",
                REPAIR,
            )

    def read(self, name: str, shard: int = 0) -> bytes:
        """The bytes of a file."""
        data = b""

        def receive(address: str) -> tuple[int, str]:
            nonlocal data
            data = self.store.get(address)
            return len(data), hashlib.sha256(data).hexdigest()

        self._checked(self._blob(name, shard), receive)
        return data

    def verify(self, blob: Blob, path: Path) -> None:
        """Read a file, into `path` for as long as it takes, and compare it with its record.

        Raises:
            ArtifactMissing, ArtifactDamaged: if it is not what was committed.
        """
        try:
            self._checked(blob, partial(self.store.fetch, path=path))
        finally:
            path.unlink(missing_ok=True)

    def json(self, name: str, shard: int = 0) -> Any:
        """The contents of a JSON file."""
        return json.loads(self.read(name, shard))

    def table(self, name: str, shard: int = 0, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file as a table; `columns` limits memory to what is needed."""
        data = self.read(name, shard)
        return pq.read_table(pa.BufferReader(data), columns=columns)

    def tables(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """The tables of all shards that have a file `name`, concatenated."""
        parts = [
            self.table(name, record.shard, columns)
            for record in self.manifest.shards
            if any(blob.name == name for blob in record.blobs)
        ]
        if not parts:
            raise ArtifactMissing(f"Artefact {self.address} has no file {name}")
        return pa.concat_tables(parts)

    def download(self, folder: Path, shard: int = 0) -> Path:
        """Copy all files of a shard into `folder`, several at once, hashed while they stream."""
        for blob in self.blobs(shard):
            try:
                checked(f"{self.address}/{blob.name}")
            except SiError as error:
                raise ArtifactDamaged(
                    f"Artefact {self.address} has a file outside its folder",
                    f"expected a relative name, got {blob.name!r}",
                ) from error
            (folder / blob.name).parent.mkdir(parents=True, exist_ok=True)

        def receive(blob: Blob) -> None:
            self._checked(blob, partial(self.store.fetch, path=folder / blob.name))

        # Unlike concurrent.futures, its threads do not keep an interrupted process from ending.
        with ThreadPool(FILES_AT_ONCE) as pool:
            for _ in pool.imap(receive, self.blobs(shard)):
                pass
        return folder
