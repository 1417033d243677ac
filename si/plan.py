"""What `--dry-run` shows: the loop walked without computing, over a store that keeps nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from si.artifacts import Manifest, Ref, Spec, load_manifest
from si.loop import Run
from si.ports import Store

UNKNOWN = "?"


class Overlay:
    """A store over another one: reads fall through, writes stay in memory."""

    def __init__(self, below: Store):
        self.below = below
        self.url = below.url
        self.written: dict[str, bytes | Path] = {}

    def put(self, address: str, data: bytes | Path) -> None:
        self.written[address] = data

    def create(self, address: str, data: bytes) -> bool:
        if self.exists(address):
            return False
        self.written[address] = data
        return True

    def get(self, address: str) -> bytes:
        if address in self.written:
            data = self.written[address]
            return data.read_bytes() if isinstance(data, Path) else data
        return self.below.get(address)

    def fetch(self, address: str, path: Path) -> tuple[int, str]:
        return self.below.fetch(address, path)

    def exists(self, address: str) -> bool:
        return address in self.written or self.below.exists(address)

    def list(self, prefix: str) -> Iterator[str]:
        mine = {address for address in self.written if address.startswith(f"{prefix}/")}
        yield from sorted(mine | set(self.below.list(prefix)))

    def delete(self, address: str) -> None:
        self.written.pop(address, None)


class Unmade(Manifest):
    """The manifest of a stage that has not run: its content and figures are not known."""

    content = UNKNOWN
    rows = 1

    @property
    def facts(self) -> dict[str, Any]:
        return {"examples": 1, "queries": 1, "samples": 0}


@dataclass(frozen=True)
class Step:
    """One stage of the plan; `address` is None where it follows from what is not computed yet."""

    entry: str
    address: str | None
    shards: int
    committed: bool


@dataclass
class Plan(Run):
    """A run that only says what it would do."""

    steps: list[Step] = field(default_factory=list)

    def stage(
        self,
        t: int,
        entry: str,
        stage: str,
        name: str,
        params: Mapping[str, Any],
        inputs: Mapping[str, Ref],
        shards: int = 1,
        strategy: str | None = None,
    ) -> Manifest:
        settings = self._settings(stage, strategy)
        spec = Spec(stage, name, settings, dict(params) | self._salt(), inputs, shards)
        known = all(ref.content != UNKNOWN for ref in inputs.values())
        manifest = load_manifest(self.store, spec) if known else None
        entry = f"it{t:02d}/{entry}"
        address = spec.address if known else None
        self.steps.append(Step(entry, address, shards, manifest is not None))
        self.stages[entry] = manifest or Unmade(spec, ())
        return self.stages[entry]
