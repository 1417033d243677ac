"""`--dry-run`: the loop without computation, over a store that keeps nothing."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from si.config.section import Section
from si.datasets.port import Hub
from si.datasets.sources import named
from si.entry import Entry
from si.errors import ArtifactMissing, RecipeError
from si.run import Run
from si.stages.explore import Slice
from si.stages.stage import Params
from si.store.commit import Manifest, load_manifest
from si.store.keys import Ref, Spec
from si.store.port import Store, Stored

UNKNOWN = "?"


class Overlay:
    """A store on top of another one: reads fall through, writes stay in memory."""

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

    def scan(self, prefix: str) -> Iterator[Stored]:
        return self.below.scan(prefix)

    def abandoned(self, before: float, delete: bool = False) -> int:
        return self.below.abandoned(before)

    def delete(self, address: str) -> None:
        self.written.pop(address, None)


class Unmade(Manifest):
    """The manifest of a stage that has not run: its content and figures are unknown."""

    content = UNKNOWN
    rows = 1

    @property
    def facts(self) -> dict[str, Any]:
        return {"examples": 1, "queries": 1, "samples": 0}


@dataclass(frozen=True)
class Step:
    """One stage of the plan; `address` is None if it depends on something not computed yet, and
    `shards` is 0 if it depends on data that are not in the store yet."""

    entry: str
    address: str | None
    shards: int
    committed: bool


class NotYet:
    """`ports.Hub` of a plan: it fetches nothing, and the content stays unknown."""

    def policy(self, store: Store, name: str) -> Manifest:
        return Unmade(Spec("fetch", named(name), {}, {}, {}), ())

    def data(self, store: Store, wish: Mapping[str, Any]) -> Manifest:
        return Unmade(Spec("import", named(wish["data.source"]), {}, {}, {}), ())


@dataclass
class Plan(Run):
    """A run that only lists what it would do.

    Attributes:
        missing: what is not in the store yet and must be fetched or created.
    """

    steps: list[Step] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    hub: Hub | None = field(default_factory=NotYet)

    def _find_data(self) -> Manifest:
        return self._found("data", super()._find_data, "import", self.recipe.data.source)

    def _find_policy(self) -> Manifest:
        return self._found("policy 0", super()._find_policy, "fetch", self.recipe.model.source)

    def _found(self, what: str, find: Callable[[], Manifest], stage: str, source: str) -> Manifest:
        """What `find` finds, or a manifest of which nothing is known."""
        try:
            made = find()
        except (RecipeError, ArtifactMissing) as error:
            self.missing.append(f"{what}: {error.headline}")
            return Unmade(Spec(stage, named(source), {}, {}, {}), ())
        if made.content == UNKNOWN:
            self.missing.append(f"{what}: {source} is fetched from the hub when the run starts")
        return made

    def _check_data(self) -> None:
        if self.data.content != UNKNOWN:
            super()._check_data()

    def _selection(self, t: int) -> list[Slice]:
        if self.data.content != UNKNOWN:
            return super()._selection(t)
        fresh = self.recipe.data.schedule == "fresh"
        return [Slice(split="train", start=0, stop=self.recipe.data.slice_size * fresh)]

    def stage(
        self,
        entry: Entry,
        name: str,
        settings: Section,
        params: Params,
        inputs: Mapping[str, Ref],
        shards: int = 1,
    ) -> Manifest:
        spec = self.spec(entry, name, settings, params, inputs, shards)
        known = all(ref.content != UNKNOWN for ref in inputs.values())
        manifest = load_manifest(self.store, spec) if known else None
        address = spec.address if known else None
        self.steps.append(Step(str(entry), address, shards, manifest is not None))
        self.stages[entry] = manifest or Unmade(spec, ())
        return self.stages[entry]
