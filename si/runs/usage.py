"""What has been spent, from what every attempt says of itself.

An attempt leaves its provenance before the race for its shard record, so losers and repetitions
count as well; one that was killed on the way has left nothing, and what it took is not known.
Times are no part of any artefact's content: what is read here goes to screens, never into one.
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
    """What some work took.

    Attributes:
        seconds: of all workers, added up.
        gpu_seconds: the same, times the GPUs that each held.
        wall: seconds in which at least one worker was at work.
        attempts: how many shards were computed, repetitions included.
        tokens: sampled, or trained on (responses' tokens, of one pass).
        bytes: size of what was committed.
        gpus: kinds of GPUs that were held.
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
        """What it cost; workers without a GPU are paid by the hour, whatever their cores."""
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
    """Spending in a store. Attempts do not change: what was read once is not read again."""

    store: Store
    read: dict[str, dict[str, Any]] = field(default_factory=dict)

    def attempts(self, address: str) -> list[dict[str, Any]]:
        """What the attempts on an artefact's shards say of themselves, in the order of shards."""
        names = list(self.store.list(f"{address}/provenance"))
        for name in names:
            if name not in self.read:
                self.read[name] = {"shard": shard_of(name)} | provenance(self.store, name)
        return [self.read[name] for name in names]

    def work(self, address: str) -> Spent:
        """What the workers on an artefact took, whole or not; without its tokens and bytes."""
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
        """What a whole artefact took."""
        tokens = manifest.facts.get("tokens", 0) if _on_model(manifest.spec.stage) else 0
        size = sum(blob.size for record in manifest.shards for blob in record.blobs)
        return self.work(manifest.spec.address) + Spent(tokens=tokens, bytes=size)

    def total(self, addresses: Iterable[str]) -> Spent:
        """What the workers on several artefacts took; each counts once."""
        return sum((self.work(address) for address in sorted(set(addresses))), NOTHING)


def _on_model(stage: str) -> bool:
    """Whether a stage's `tokens` count what a model sampled or was trained on."""
    return stage in STAGES and STAGES[stage].gpus


def made_by(store: Store, manifest: Manifest, shard: int = 0) -> dict[str, Any]:
    """What the attempt that won a shard says of itself."""
    record = manifest.shards[shard]
    name = f"{record.shard:05d}-{record.attempt}.json"
    try:
        return provenance(store, f"{manifest.spec.address}/provenance/{name}")
    except ArtifactMissing:
        return {}


def provenance(store: Store, address: str) -> dict[str, Any]:
    """What an attempt says of itself; nothing if that is unreadable, since nothing hangs on it."""
    try:
        said: dict[str, Any] = json.loads(store.get(address))
    except ValueError:
        return {}
    return said


def shard_of(address: str) -> int:
    """`.../provenance/00003-0123456789ab.json` -> 3."""
    return int(address.rpartition("/")[2].partition("-")[0])


def intervals(attempts: Iterable[Mapping[str, Any]]) -> Iterator[tuple[float, float]]:
    """When each attempt was at work, in seconds since 1970; ends are known to the second."""
    for attempt in attempts:
        if "finished" in attempt:
            end = datetime.strptime(attempt["finished"], "%Y-%m-%dT%H:%M:%SZ")
            stamp = end.replace(tzinfo=UTC).timestamp()
            yield stamp - float(attempt.get("seconds", 0.0)), stamp


def union(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what at least one of the spans covers."""
    covered, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered
