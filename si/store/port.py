"""The interface of a store."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from si.errors import SiError


def checked(address: str) -> str:
    """The address, if it is valid and unambiguous in every store.

    Raises:
        SiError: if it is empty or absolute, has an empty, `.` or `..` part, a backslash or an
            unprintable character, or begins with a dot (reserved for the store).
    """
    parts = address.split("/")
    legal = address.isprintable() and "\\" not in address and not address.startswith(".")
    if not legal or any(part in ("", ".", "..") for part in parts):
        raise SiError(f"Invalid store address {address!r}")
    return address


class Stored(NamedTuple):
    """What is at an address: its size in bytes, and when it was written (seconds since 1970)."""

    address: str
    size: int
    written: float


class Store(Protocol):
    """Bytes under `/`-separated addresses, in a folder or a bucket.

    An address is one that `checked` accepts, and is never reused for other bytes. All methods
    raise `StoreUnavailable` (exit 4) if the storage is unreachable, full, or denies access.
    """

    url: str

    def put(self, address: str, data: bytes | Path) -> None:
        """Write bytes, or a file, to an address unique to this attempt; all of it or nothing."""
        ...

    def create(self, address: str, data: bytes) -> bool:
        """Write `data` if nothing is at `address`; False if something is.

        A store may retry after a lost answer and so return False for its own success. Callers read
        what is there and compare (`commit.settle`).
        """
        ...

    def get(self, address: str) -> bytes:
        """The bytes at `address`.

        Raises:
            ArtifactMissing: if there are none.
        """
        ...

    def fetch(self, address: str, path: Path) -> tuple[int, str]:
        """Copy to the file `path`; returns the size and SHA-256 of what was received.

        Raises:
            ArtifactMissing: if nothing is at `address`.
        """
        ...

    def exists(self, address: str) -> bool:
        """Whether something is at `address`."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Sorted addresses of everything below `prefix`, which ends at a `/` or is empty."""
        ...

    def scan(self, prefix: str) -> Iterator[Stored]:
        """`list`, with sizes and times."""
        ...

    def delete(self, address: str) -> None:
        """Delete what is at `address`, if anything. It is for what nothing refers to: the files of
        a training in progress, the records of a removed run, and garbage."""
        ...

    def abandoned(self, before: float, delete: bool = False) -> int:
        """Number of uploads that were begun before this time (seconds since 1970) and never ended,
        whose parts take up room; with `delete`, they are aborted."""
        ...
