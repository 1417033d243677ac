"""The resources that a run has used, from the provenance of every attempt.

An attempt writes its provenance before the race for its shard record, so losers and repetitions
count as well. A killed attempt has left none, and its use is unknown. Times are not part of any
artefact's content: these figures go to screens, never into an artefact.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from si.errors import ArtifactMissing
from si.stages import STAGES
from si.store.commit import Manifest
from si.store.port import Store

HOUR = 3600.0


@dataclass(frozen=True)
class Spent:
    """The resources that some work used.

    Attributes:
        seconds: sum over all workers.
        gpu_seconds: the same, times the number of GPUs that each held.
        wall: seconds in which at least one worker was active.
        attempts: number of computed shards, including repetitions.
        tokens: sampled, or trained on (response tokens of one epoch).
        bytes: committed size.
        gpus: kinds of GPUs used.
    """

    seconds: float = 0.0
    gpu_seconds: float = 0.0
    cpu_seconds: float = 0.0
    wall: float = 0.0
    attempts: int = 0
    tokens: int = 0
    bytes: int = 0
    gpus: frozenset[str] = frozenset()

    @property
    def gpu_hours(self) -> float:
        return self.gpu_seconds / HOUR

    def money(self, per_gpu_hour: float, per_cpu_hour: float = 0.0) -> float:
        """The cost; a worker without a GPU has one price per hour, independent of its cores."""
        return (self.gpu_seconds * per_gpu_hour + self.cpu_seconds * per_cpu_hour) / HOUR

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            self.seconds + other.seconds,
            self.gpu_seconds + other.gpu_seconds,
            self.cpu_seconds + other.cpu_seconds,
            self.wall + other.wall,
            self.attempts + other.attempts,
            self.tokens + other.tokens,
            self.bytes + other.bytes,
            self.gpus | other.gpus,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 2),
            "gpu_hours": round(self.gpu_hours, 5),
            "wall_seconds": round(self.wall, 2),
            "attempts": self.attempts,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "gpus": sorted(self.gpus),
        }


NOTHING = Spent()


@dataclass
class Ledger:
    """Resource use in a store, with a cache: attempts never change once written."""

    store: Store
    read: dict[str, dict[str, Any]] = field(default_factory=dict)

    def attempts(self, address: str) -> list[dict[str, Any]]:
        """Provenance of all attempts on an artefact's shards, in the order of shards."""
        names = list(self.store.list(f"{address}/provenance"))
        for name in names:
            if name not in self.read:
                self.read[name] = {"shard": shard_of(name)} | provenance(self.store, name)
        return [self.read[name] for name in names]

    def work(self, address: str) -> Spent:
        """Use by the workers on an artefact, complete or not, without its tokens and bytes."""
        attempts = self.attempts(address)
        seconds = [float(attempt.get("seconds", 0.0)) for attempt in attempts]
        gpus = [int(attempt.get("gpus", 0)) for attempt in attempts]
        return Spent(
            sum(seconds),
            sum(s * n for s, n in zip(seconds, gpus, strict=True)),
            sum(s for s, n in zip(seconds, gpus, strict=True) if not n),
            union(intervals(attempts)),
            len(attempts),
            gpus=frozenset(attempt["gpu"] for attempt in attempts if attempt.get("gpu")),
        )

    def artifact(self, manifest: Manifest) -> Spent:
        """Use by a complete artefact, with its tokens and bytes."""
        tokens = manifest.facts.get("tokens", 0) if _on_model(manifest.spec.stage) else 0
        size = sum(blob.size for record in manifest.shards for blob in record.blobs)
        return self.work(manifest.spec.address) + Spent(tokens=tokens, bytes=size)

    def total(self, addresses: Iterable[str]) -> Spent:
        """Use by the workers on several artefacts; each counts once."""
        return sum((self.work(address) for address in sorted(set(addresses))), NOTHING)


def _on_model(stage: str) -> bool:
    """Whether a stage's `tokens` count what a model sampled or was trained on."""
    return stage in STAGES and STAGES[stage].gpus


def made_by(store: Store, manifest: Manifest, shard: int = 0) -> dict[str, Any]:
    """Provenance of the attempt that won a shard; empty if it is missing."""
    record = manifest.shards[shard]
    name = f"{record.shard:05d}-{record.attempt}.json"
    try:
        return provenance(store, f"{manifest.spec.address}/provenance/{name}")
    except ArtifactMissing:
        return {}


def provenance(store: Store, address: str) -> dict[str, Any]:
    """Provenance of an attempt; empty if it is unreadable, since nothing depends on it."""
    try:
        said: dict[str, Any] = json.loads(store.get(address))
    except ValueError:
        return {}
    return said


def shard_of(address: str) -> int:
    """`.../provenance/00003-0123456789ab.json` -> 3."""
    return int(address.rpartition("/")[2].partition("-")[0])


def intervals(attempts: Iterable[Mapping[str, Any]]) -> Iterator[tuple[float, float]]:
    """Start and end of each attempt, in seconds since 1970; ends are accurate to the second."""
    for attempt in attempts:
        if "finished" in attempt:
            end = datetime.strptime(attempt["finished"], "%Y-%m-%dT%H:%M:%SZ")
            stamp = end.replace(tzinfo=UTC).timestamp()
            yield stamp - float(attempt.get("seconds", 0.0)), stamp


def union(spans: Iterable[tuple[float, float]]) -> float:
    """Length covered by at least one of the spans."""
    covered, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered
