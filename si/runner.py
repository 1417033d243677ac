"""One stage of a run: committed already -> its address; else submit, wait, check the manifest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

from si.config.recipe import Recipe
from si.config.section import Section
from si.entry import Entry
from si.errors import RunChanged, StageFailed
from si.events import Event
from si.runs.limits import NO_LIMIT, Budget, LimitReached, Stop
from si.runs.record import run_folder
from si.runs.usage import Ledger, Spent
from si.stages import STAGES
from si.stages.stage import Params
from si.store.commit import Manifest, announce, committed, finish, load_manifest, settle
from si.store.keys import Ref, Spec, canonical, read_record, sealed
from si.store.port import Store

if TYPE_CHECKING:
    from si.clusters.port import Cluster

DATA, POLICY = Entry(0, "data"), Entry(0, "policy")


@dataclass
class Runner:
    """Gets the stages of one run done, and keeps the run's pointers to their artefacts.

    Attributes:
        name: the run's name; it is in no key.
        generation: 1, or more after `--fresh`; above 1 it is part of every key.
        on_event: receives an event for each stage begun, shard committed, stage done.
        stages: what this process has seen done.
        budget: what the run may spend; what other runs have computed of it counts, too.
        paid: what the stages in `stages` took, by address, if there is a budget.
        stopped: why the run ended before its last iteration, if it did.
    """

    name: str
    recipe: Recipe
    store: Store
    cluster: "Cluster"
    generation: int = 1
    on_event: Callable[[Event], None] = lambda _: None
    stages: dict[Entry, Manifest] = field(default_factory=dict)
    budget: Budget = NO_LIMIT
    paid: dict[str, Spent] = field(default_factory=dict)
    stopped: Stop | None = None

    @property
    def folder(self) -> str:
        """Where the run's pointers are."""
        return run_folder(self.name, self.generation)

    @property
    def done(self) -> int:
        """How many iterations are complete."""
        return sum(entry.step == "evaluate" and entry.t > 0 for entry in self.stages)

    @cached_property
    def ledger(self) -> Ledger:
        """What was spent in the store."""
        return Ledger(self.store)

    def spec(
        self,
        entry: Entry,
        name: str,
        settings: Section,
        params: Params,
        inputs: Mapping[str, Ref],
        shards: int = 1,
    ) -> Spec:
        """What the entry's stage is to do in this run's generation."""
        params = params.model_copy(update={"generation": self.generation})
        return STAGES[entry.stage].spec(name, settings, params, inputs, shards)

    def stage(
        self,
        entry: Entry,
        name: str,
        settings: Section,
        params: Params,
        inputs: Mapping[str, Ref],
        shards: int = 1,
    ) -> Manifest:
        """Get one stage done: its manifest from the store if it is there, else by the cluster.

        Raises:
            StageFailed: if the cluster ends without completing the stage.
            LimitReached: if the budget does not allow it.
            RunChanged: if the run's entry already points to another artefact.
        """
        spec = self.spec(entry, name, settings, params, inputs, shards)
        manifest = load_manifest(self.store, spec)
        if manifest is None:
            manifest = self._compute(entry, spec)
        else:
            self.point(entry, spec)
        self.complete(entry, manifest)
        return manifest

    def _compute(self, entry: Entry, spec: Spec) -> Manifest:
        self._afford(entry, spec)
        if self.store.exists(f"{self.folder}/{entry}.json"):
            self.point(entry, spec)  # refuses a changed run before anything is written
        announce(self.store, spec)
        self.point(entry, spec)
        self.begin(entry, spec.shards)
        # All shards may be committed already, with only the manifest missing.
        manifest = finish(self.store, spec)
        if manifest is None:
            try:
                self.cluster.run(str(entry), spec, partial(self._receive, entry, spec))
            except StageFailed:
                # The manifest decides: others may have done what these workers could not.
                if finish(self.store, spec) is None:
                    raise
            manifest = finish(self.store, spec)
        if manifest is None:
            raise StageFailed(
                f"Stage {entry} ended, but not all of its shards are there",
                f"address {spec.address} in {self.store.url}",
                "Run the same command again; it resumes.",
            )
        return manifest

    def _receive(self, entry: Entry, spec: Spec, event: Event) -> None:
        """Pass on an event of a stage at work, and check the budget after every shard."""
        self.on_event({**event, "entry": str(entry)})
        if event["event"] in ("shard", "shards"):
            self._afford(entry, spec)

    def _afford(self, entry: Entry, spec: Spec) -> None:
        """Check the budget, before a stage begins and with each of its shards. A training is one
        shard; the report is always made.

        Raises:
            LimitReached: if nothing is left of it.
        """
        if not self.budget or spec.stage == "report":
            return
        spent = sum(self.paid.values(), self.ledger.work(spec.address))
        reached = self.budget.reached(spent)
        if reached:
            rule, limit, words = reached
            there = len(committed(self.store, spec.address))
            if there < spec.shards:
                raise LimitReached(Stop(rule, limit, self.done, str(entry), there, words))

    def point(self, entry: Entry, spec: Spec) -> None:
        """Create the run's pointer from an entry to its artefact; an equal one may be there.

        Raises:
            RunChanged: if the pointer that is there points elsewhere.
        """
        address = f"{self.folder}/{entry}.json"
        pointer = canonical(sealed({"stage": spec.stage, "address": spec.address, "key": spec.key}))
        if self.store.exists(address):
            standing = self.store.get(address)
        else:
            _, standing = settle(self.store, address, pointer)
        if standing != pointer:
            other = read_record(self.store, address, lambda raw: raw["address"])
            raise RunChanged(
                f"The run {self.name} already has another {entry}",
                f"{address} points to {other}, now {spec.address}{self._versions(other, spec)}",
                (
                    "Give this recipe another run name: --run NAME",
                    "Or begin a new generation of this run: --fresh",
                    "Or resume it with the version of si-ctl that began it.",
                ),
            )

    def _versions(self, other: str, spec: Spec) -> str:
        """What to say if the stage itself has changed since an artefact was made."""
        if not self.store.exists(f"{other}/spec.json"):
            return ""
        before = Spec.load(self.store, other).schema
        if before == spec.schema:
            return ""
        return f"\nthe stage {spec.stage} has version {spec.schema} here, version {before} there"

    def begin(self, entry: Entry, shards: int) -> None:
        """Report that a stage begins."""
        self.on_event({"event": "begin", "entry": str(entry), "shards": shards})

    def complete(self, entry: Entry, manifest: Manifest) -> None:
        """Report that a stage is done, and remember its manifest."""
        self.stages[entry] = manifest
        if self.budget:
            self.paid[manifest.spec.address] = self.ledger.work(manifest.spec.address)
        if entry in (DATA, POLICY):
            self.point(entry, manifest.spec)
        self.on_event(
            {"event": "done", "entry": str(entry), "rows": manifest.rows, "facts": manifest.facts}
        )
