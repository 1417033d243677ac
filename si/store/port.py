"""What a store is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from si.errors import SiError


def checked(address: str) -> str:
    """The address itself, if it can mean one thing only in every store.

    Raises:
        SiError: if it is empty or absolute, has an empty, `.` or `..` part, a backslash or
            a character that cannot be printed, or begins with a dot (the store's own room).
    """
    parts = address.split("/")
    legal = address.isprintable() and "\\" not in address and not address.startswith(".")
    if not legal or any(part in ("", ".", "..") for part in parts):
        raise SiError(f"The address {address!r} is none that a store takes")
    return address


class Store(Protocol):
    """A place for bytes under `/`-separated addresses: a folder or a bucket.

    An address is one that `checked` takes, and is never reused for other bytes. All
    methods raise `StoreUnavailable` (exit 4) when the place does not answer, is full,
    or refuses.
    """

    url: str

    def put(self, address: str, data: bytes | Path) -> None:
        """Write bytes, or a file's, at an attempt-unique address; visible whole or not at all."""
        ...

    def create(self, address: str, data: bytes) -> bool:
        """Put `data` only if nothing is at `address`; False if something is.

        After a lost answer an adapter may retry and so report False for its own
        success: callers read what is there and compare (`artifacts.settle`).
        """
        ...

    def get(self, address: str) -> bytes:
        """All bytes at `address`; raises `ArtifactMissing`."""
        ...

    def fetch(self, address: str, path: Path) -> tuple[int, str]:
        """Stream into `path`; the size and SHA-256 of what was received."""
        ...

    def exists(self, address: str) -> bool:
        """Whether something is committed at `address`."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Addresses of everything below `prefix` (a whole address part), sorted."""
        ...

    def delete(self, address: str) -> None:
        """Remove what is at `address`, if anything is. Of committed artefacts nothing ever goes
        this way: it is for what only a training in progress needs."""
        ...
