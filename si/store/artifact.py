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
