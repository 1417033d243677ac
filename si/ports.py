"""The places where the outside begins: storage, compute, sampling, training, the model hub,
trackers."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from si.errors import SiError
from si.records import Request, Sampled, TrainingRow

if TYPE_CHECKING:
    from si.runs.tracking import Batch, Tracked
    from si.store.artifacts import Manifest, Spec
    from si.store.checkpoints import Checkpoints


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


class Sampler(Protocol):
    """A policy that answers. One object holds one loaded policy."""

    def sample(self, requests: Sequence[Request]) -> Iterator[list[Sampled]]:
        """For each request in turn, one continuation per seed.

        What is drawn for a seed depends on the request and, at most, on the
        other requests of the same call: never on earlier calls.
        """
        ...

    def decode(self, token_ids: Sequence[int]) -> tuple[str, list[int]]:
        """The ids as text without special tokens, and for each token the number of
        characters covered once it is there."""
        ...


class Trainer(Protocol):
    """Turns examples into a policy."""

    def train(
        self,
        rows: Sequence[TrainingRow],
        start: Path,
        base: Path,
        out: Path,
        settings: dict[str, Any],
        seed: int,
        checkpoints: "Checkpoints | None" = None,
    ) -> dict[str, Any]:
        """Train from the policy at `start` and write an HF folder to `out`.

        Args:
            rows: examples in stored order; the trainer shuffles them by `seed`.
            start: policy to begin from, an HF folder or a PEFT adapter folder.
            base: policy 0; the same as `start` unless that is an adapter.
            out: an empty folder to write the policy to. Where several processes train
                together, the first one writes it, the others leave theirs empty.
            settings: the recipe's `train` section, with `steps` (int or None) in it.
            seed: key for shuffling and initialisation.
            checkpoints: where to go on from and to save to, if the trainer can.

        Returns:
            Deterministic facts: steps, examples, tokens, dropped, losses (one a step). What
            depends on the machine (seconds, memory) goes under `provenance`: the stage puts it
            beside the artefact.
        """
        ...


class Hub(Protocol):
    """Where models and data sets are published; what a recipe names of it is brought into the store
    once, as an artefact. Methods raise `RecipeError` for what is not there or cannot be used, and
    `StoreUnavailable` where the hub does not answer."""

    def policy(self, store: Store, name: str) -> "Manifest":
        """Commit the model `owner/name`, or `owner/name@revision`."""
        ...

    def data(self, store: Store, wish: Mapping[str, Any]) -> "Manifest":
        """Commit the data set that `wish` names: the recipe's `data` settings by dotted name."""
        ...


Event = dict[str, Any]


class Cluster(Protocol):
    """Runs a stage's script somewhere, as wide as the Place says, until its shards are in."""

    def run(self, entry: str, spec: "Spec", on_event: Callable[[Event], None]) -> None:
        """Work on `spec`, the run's stage `entry` (`it01/explore`), until its workers end.

        Raises `StageFailed` with the workers' exit code. Returning does not mean
        that the stage is whole: the manifest alone says so.
        """
        ...


class Tracker(Protocol):
    """Keeps metrics of many runs, to be looked at side by side."""

    where: str
    """Where they can be looked at, for people; known once a run has begun."""

    def begin(self, run: "Tracked") -> Container[str]:
        """Begin a run, or go on with it if its key is known; the names of the batches that it
        has already, as far as the tracker knows them."""
        ...

    def log(self, batch: "Batch") -> None:
        """Keep a batch's points. They come in the run's order. What the tracker has of them, though
        it did not know, stays as it is."""
        ...

    def end(self) -> None:
        """Nothing more comes for now; returns when all is kept."""
        ...
