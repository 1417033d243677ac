"""One run: what each step of the loop reads, and how one stage gets done."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count
from typing import TYPE_CHECKING, Any

from si.config.recipe import UNBOUND, Recipe
from si.datasets import sources
from si.datasets.dataset import Dataset
from si.datasets.port import Hub
from si.errors import DataError, NothingToTrain, RecipeError, RunChanged, StageFailed
from si.events import Event
from si.plugins import fingerprint, is_custom, label
from si.runs.limits import NO_LIMIT, PATIENCE, Budget, LimitReached, Stop, out_of_patience
from si.runs.record import run_folder
from si.runs.usage import Ledger, Spent
from si.store.artifact import Artifact
from si.store.commit import Manifest, announce, committed, finish, load_manifest, settle
from si.store.keys import Ref, Spec, canonical, read_record, sealed
from si.store.port import Store
from si.strategies import rule_of

if TYPE_CHECKING:
    from si.clusters.port import Cluster

# The recipe fields that each stage reads: they, and no others, are in its key.
READS: dict[str, tuple[str, ...]] = {
    "explore": ("seed", "sampling", "model.family"),
    "verify": ("verify",),
    "levels": (),
    "resample": ("seed", "ar", "gr", "sampling.max_new_tokens"),
    "rebalance": ("seed", "tc"),
    "train": (
        *("train", "sampling.system_prompt", "sampling.prompt_template"),
        *("sampling.image_tokens", "model.family"),
    ),
    "evaluate": (),
}
# Settings that came later. At their defaults a stage computes what it computed without them, so
# they are in its key only where they are set: what was stored before stays what it is.
LATER = Recipe().pick(
    *("sampling.prompt_template", "sampling.image_tokens", "model.family"),
    *("data.map", "data.split", "data.answer_kind", "data.skip_bad"),
    *("train.packing", "train.cache_vision", "train.gradient_checkpointing", "train.liger"),
)
# What says which data set it is.
WISH = ("data.source", "data.map", "data.split", "data.answer_kind", "data.skip_bad")
# That, and which policy 0: all that may have to be brought from a hub.
WISHES = (*WISH, "model.source")
# Fields of `train` that the loop resolves into inputs and steps.
RESOLVED = ("init", "pool", "match_steps")


@dataclass
class Run:
    """One run at work: what it computes, where it stores, on what it computes.

    Attributes:
        name: the run's name; it is in no key.
        generation: 1, or more after `--fresh`; only then it salts every key.
        on_event: hears of stages begun, shards committed, stages done.
        stages: what this process has seen done, by entry name (`it01/explore`).
        budget: what it may spend; what other runs have computed of it counts, too.
        paid: what the stages in `stages` took, by address, if there is a budget.
        stopped: why it ended before its last iteration, if it did.
        hub: where models and data sets are published; None if none is reached from here.
    """

    name: str
    recipe: Recipe
    store: Store
    cluster: "Cluster"
    generation: int = 1
    on_event: Callable[[Event], None] = lambda _: None
    stages: dict[str, Manifest] = field(default_factory=dict)
    budget: Budget = NO_LIMIT
    paid: dict[str, Spent] = field(default_factory=dict)
    stopped: Stop | None = None
    hub: Hub | None = None

    @property
    def base(self) -> Manifest:
        """Policy 0."""
        return self.stages["it00/policy"]

    @property
    def data(self) -> Manifest:
        return self.stages["it00/data"]

    @property
    def done(self) -> int:
        """How many iterations are whole."""
        return sum(entry.endswith("/evaluate") for entry in self.stages.keys() - {"it00/evaluate"})

    # -- the steps, in the order of the loop ------------------------------------------------

    def prepare(self) -> None:
        """Data, policy 0, and the levels of the held-out queries."""
        self.on_event({"event": "begin", "entry": "it00/data", "shards": 1})
        self._done("it00/data", self._find_data())
        self.on_event({"event": "begin", "entry": "it00/policy", "shards": 1})
        self._done("it00/policy", self._find_policy())
        self.dataset = Dataset(Artifact(self.store, self.data))
        self._check_data()
        self.held_out_levels = self.levels(0, self._held_out())

    def _find_data(self) -> Manifest:
        return sources.dataset(self.store, self.recipe.pick(*WISH), self.hub, self._salt())

    def _find_policy(self) -> Manifest:
        return sources.policy(self.store, self.recipe.model.source, self.hub, self._salt())

    def _check_data(self) -> None:
        """Refuse data that do not hold what the recipe asks of them."""
        for split in ("train", *self.recipe.evaluate.splits):
            if not self.dataset.size(split):
                raise DataError(
                    f"The data set {self.data.spec.address} has no {split} queries",
                    f"in {self.store.url}",
                    "Every run needs train, and the splits that evaluate.splits names.",
                )
        self._selection(self.recipe.iterations)

    def explore(self, t: int, policy: Manifest, draws: Manifest | None = None) -> Manifest:
        """Sample K responses a query, or what `draws` asks for."""
        inputs = {"policy": policy.ref, "data": self.data.ref, "base": self.base.ref}
        if draws is None:
            return self._explore(t, "explore", inputs, 1, self.recipe.k, self._selection(t))
        inputs["draws"] = draws.ref
        return self._explore(t, "explore-2", inputs, 2, 0, [], draws.facts["queries"])

    def verify(self, t: int, rollouts: Manifest, entry: str = "verify") -> Manifest:
        """Decide of every rollout whether it is right, shard by shard."""
        if rollouts.spec.params["round"] == 2:
            entry = "verify-2"
        inputs = {"data": self.data.ref, "rollouts": rollouts.ref}
        name = rollouts.spec.name
        return self.stage(t, entry, "verify", name, {}, inputs, rollouts.spec.shards)

    def resample(self, t: int, rollouts: Manifest, verdicts: Manifest) -> Manifest | None:
        """The second round's draws; None where the strategy has no resampling rule."""
        rule = rule_of(self.recipe.strategy, "resample")
        if rule == "vanilla":
            return None
        inputs = {"data": self.data.ref, "rollouts": rollouts.ref, "verdicts": verdicts.ref}
        if rule == "gr" and self.recipe.gr.reference:
            inputs["policy"] = self.base.ref
        if rule == "gr" and self.recipe.data.schedule == "fixed":
            for earlier in range(1, t):
                for stage in ("rollouts", "verdicts"):
                    entry = {"rollouts": "explore", "verdicts": "verify"}[stage]
                    inputs[f"earlier-{stage}-{earlier}"] = self.stages[
                        f"it{earlier:02d}/{entry}"
                    ].ref
        params = {"iteration": t, "k": self.recipe.k}
        return self.stage(
            t, "resample", "resample", f"it{t:02d}-{label(rule)}", params, inputs, strategy=rule
        )

    def rebalance(self, t: int, rounds: list[tuple[Manifest, Manifest]]) -> Manifest:
        """The training examples of this iteration."""
        rule = rule_of(self.recipe.strategy, "reshape")
        inputs = {"data": self.data.ref, "levels": self._train_levels(t, rounds[0][1]).ref}
        for number, (rollouts, verdicts) in enumerate(rounds, 1):
            inputs[f"rollouts-{number}"] = rollouts.ref
            inputs[f"verdicts-{number}"] = verdicts.ref
        params = {"iteration": t, "k": self.recipe.k}
        examples = self.stage(
            t, "rebalance", "rebalance", f"it{t:02d}-{label(rule)}", params, inputs, strategy=rule
        )
        if not examples.facts["examples"]:
            raise NothingToTrain(
                f"Iteration {t} has no correct response: there is nothing to train on",
                f"{rounds[0][1].facts['samples']} responses of {rounds[0][0].facts['queries']} "
                f"queries were sampled, 0 are right; see {rounds[0][1].spec.address}",
                (
                    "Look at some responses: is the prompt right, is the final answer found?",
                    "Sample more per query (--k), or begin with easier queries or a better policy.",
                    "With strategy gr, allow the data's own rationales: --set gr.reference=true",
                ),
            )
        return examples

    def train(self, t: int, examples: Manifest, previous: Manifest) -> Manifest:
        """The next policy."""
        train = self.recipe.train
        pool = [examples]
        if train.pool == "all":
            pool = [self.stages[f"it{i:02d}/rebalance"] for i in range(1, t + 1)]
        start = previous if train.init == "previous" else self.base
        inputs = {"data": self.data.ref, "base": self.base.ref, "start": start.ref}
        inputs |= {f"examples-{number}": made.ref for number, made in enumerate(pool, 1)}
        params = {"iteration": t, "steps": self._steps(t), "seed": self.recipe.seed}
        return self.stage(t, "train", "train", f"it{t:02d}", params, inputs)

    def evaluate(self, t: int, policy: Manifest) -> Manifest:
        """Explore the held-out queries greedily, verify, score."""
        inputs = {"policy": policy.ref, "data": self.data.ref, "base": self.base.ref}
        rollouts = self._explore(t, "evaluate-explore", inputs, 0, 1, self._held_out(), greedy=True)
        verdicts = self.verify(t, rollouts, "evaluate-verify")
        inputs = {
            "data": self.data.ref,
            "levels": self.held_out_levels.ref,
            "rollouts": rollouts.ref,
            "verdicts": verdicts.ref,
        }
        params = {"iteration": t, "splits": list(self.recipe.evaluate.splits)}
        return self.stage(t, "evaluate", "evaluate", f"it{t:02d}", params, inputs)

    def enough(self, t: int) -> bool:
        """Whether the run ends here, since dev has not gained for as long as patience allows."""
        patience = self.recipe.patience
        if patience is None or t == self.recipe.iterations:
            return False
        facts = [self.stages[f"it{i:02d}/evaluate"].facts for i in range(t + 1)]
        scores = [found["accuracy_dev"] for found in facts if "accuracy_dev" in found]
        why = out_of_patience(scores, patience) if len(scores) > t else None  # a plan has none
        if why:
            self.stopped = Stop(PATIENCE, patience, t, f"it{t + 1:02d}/explore", 0, why)
        return why is not None

    def report(self, last: int) -> Manifest:
        """The page about this run, from everything that it made in `last` iterations."""
        inputs = {"data": self.data.ref, "levels": self.held_out_levels.ref}
        for t in range(last + 1):
            for entry, role in ROLES.items():
                done = self.stages.get(f"it{t:02d}/{entry}")
                if done is not None:
                    inputs[f"{role}-{t}"] = done.ref
        name = f"{self.recipe.strategy_label}-k{self.recipe.k}"
        params = {"iterations": last}
        spec = Spec("report", name, self._settings("report", None), params | self._salt(), inputs)
        entry = self._report_entry(last, spec)
        return self.stage(last, entry, "report", name, params, inputs)

    def _report_entry(self, t: int, spec: Spec) -> str:
        """`report`; or `report-2` and so on, beside reports of this run unlike this one, which
        another version of si-ctl may have made: nothing is built on a report, so none is in the
        way."""
        for number in count(1):
            entry = "report" if number == 1 else f"report-{number}"
            address = f"{self.folder}/it{t:02d}/{entry}.json"
            if not self.store.exists(address):
                break
            if read_record(self.store, address, lambda raw: raw["key"]) == spec.key:
                break
        return entry

    # -- one step ---------------------------------------------------------------------------

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
        """Have one stage done: its manifest from the store if it is there, else by the cluster."""
        spec = Spec(
            stage,
            name,
            self._settings(stage, strategy),
            dict(params) | self._salt(),
            inputs,
            shards,
        )
        entry = f"it{t:02d}/{entry}"
        manifest = load_manifest(self.store, spec)
        if manifest is None:
            self._afford(entry, spec)
            self._begin(entry, spec)
            self.on_event({"event": "begin", "entry": entry, "shards": spec.shards})
            # Shards may be whole already, and only the manifest be missing.
            manifest = finish(self.store, spec)
        else:
            self._point(entry, spec)
        if manifest is None:
            try:
                self.cluster.run(entry, spec, partial(self._hear, entry, spec))
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
        self._done(entry, manifest)
        return manifest

    def _hear(self, entry: str, spec: Spec, event: Event) -> None:
        """Pass on what a stage at work says, and look after every shard whether to go on."""
        self.on_event({**event, "entry": entry})
        if event["event"] in ("shard", "shards"):
            self._afford(entry, spec)

    def _afford(self, entry: str, spec: Spec) -> None:
        """Look whether there is budget left: before a stage begins, and with each of its shards.
        A training is one shard; the report is always made.

        Raises:
            LimitReached: if there is none.
        """
        if not self.budget or spec.stage == "report":
            return
        spent = sum(self.paid.values(), self.ledger.work(spec.address))
        reached = self.budget.reached(spent)
        if reached:
            rule, limit, words = reached
            there = len(committed(self.store, spec.address))
            if there < spec.shards:
                raise LimitReached(Stop(rule, limit, self.done, entry, there, words))

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.store)

    def _begin(self, entry: str, spec: Spec) -> None:
        announce(self.store, spec)
        self._point(entry, spec)

    def _point(self, entry: str, spec: Spec) -> None:
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
                f"{address} points to {other}, now {spec.address}",
                (
                    "Give this recipe a run name of its own: --run NAME",
                    "Or begin a new generation of this run: --fresh",
                ),
            )

    def _done(self, entry: str, manifest: Manifest) -> None:
        self.stages[entry] = manifest
        if self.budget:
            self.paid[manifest.spec.address] = self.ledger.work(manifest.spec.address)
        if entry in ("it00/data", "it00/policy"):
            self._point(entry, manifest.spec)
        self.on_event(
            {"event": "done", "entry": entry, "rows": manifest.rows, "facts": manifest.facts}
        )

    @property
    def folder(self) -> str:
        return run_folder(self.name, self.generation)

    def _salt(self) -> dict[str, Any]:
        return {"generation": self.generation} if self.generation > 1 else {}

    def _settings(self, stage: str, strategy: str | None) -> dict[str, Any]:
        if stage == "report":
            whole = _without_later(self.recipe.model_dump(mode="json"))
            return {key: value for key, value in whole.items() if key not in UNBOUND}
        settings = _without_later(self.recipe.pick(*READS[stage]))
        if stage == "train":
            others = () if settings["train"]["trainer"] == "deepspeed" else ("deepspeed",)
            unread = {*RESOLVED, *others}
            settings["train"] = {k: v for k, v in settings["train"].items() if k not in unread}
        owned = [strategy] if strategy and is_custom(strategy) else []
        if "model.family" in settings:
            owned = [settings["model.family"]]
        if stage == "verify":
            judge = settings["verify"].pop("judge")
            if is_custom(judge):
                settings["verify"]["judge"] = judge
                owned = [judge]
        if strategy is not None:
            settings["strategy"] = strategy
        if owned:
            settings["code"] = fingerprint(owned[0])
        return settings

    def _explore(
        self,
        t: int,
        entry: str,
        inputs: dict[str, Ref],
        number: int,
        k: int,
        select: list[dict[str, Any]],
        queries: int | None = None,
        greedy: bool = False,
    ) -> Manifest:
        if queries is None:
            queries = sum(piece["stop"] - piece["start"] for piece in select)
        per_shard = self.recipe.explore.shard_queries
        if greedy:
            per_shard *= 4  # one response a query: small batches would be slow
        params = {
            # Greedy responses do not depend on the iteration but through the policy.
            "iteration": 0 if greedy or number == 0 else t,
            "round": number,
            "k": k,
            "select": select,
            "shard_queries": per_shard,
            "greedy": greedy,
        }
        label = "heldout" if greedy else "levels" if number == 0 else f"r{number}-k{k or 'draws'}"
        name = f"it{t:02d}-{label}" if number else label
        shards = -(-queries // per_shard)
        return self.stage(t, entry, "explore", name, params, inputs, shards)

    def _selection(self, t: int) -> list[dict[str, Any]]:
        """The training queries of iteration t, as rows of the split in the data's own order."""
        size = self.dataset.size("train")
        if self.recipe.data.schedule == "fixed":
            return [{"split": "train", "start": 0, "stop": size}]
        width = self.recipe.data.slice_size
        if t * width > size:
            raise DataError(
                f"The data end before iteration {t}: {size} training queries, {width} each",
                f"data set {self.data.spec.address}, data.schedule: fresh",
                (
                    f"Run at most {size // width} iterations, or make slices smaller "
                    "(--set data.slice_size=N).",
                    "Use the same queries every iteration: --set data.schedule=fixed",
                ),
            )
        return [{"split": "train", "start": (t - 1) * width, "stop": t * width}]

    def _held_out(self) -> list[dict[str, Any]]:
        limit = self.recipe.evaluate.limit
        sizes = {split: self.dataset.size(split) for split in self.recipe.evaluate.splits}
        return [
            {"split": split, "start": 0, "stop": min(size, limit or size)}
            for split, size in sizes.items()
        ]

    def levels(self, t: int, select: list[dict[str, Any]]) -> Manifest:
        """Levels of these queries: the data's own if they are this policy's, else measured."""
        facts = self.data.facts
        if facts.get("levels_policy") == self.base.content and self.recipe.levels.k:
            return self.data
        inputs = {"policy": self.base.ref, "data": self.data.ref, "base": self.base.ref}
        k = self.recipe.levels.k or self.recipe.k
        rollouts = self._explore(t, "levels-explore", inputs, 0, k, select)
        verdicts = self.verify(t, rollouts, "levels-verify")
        return self.stage(t, "levels", "levels", "levels", {}, {"verdicts-1": verdicts.ref})

    def _train_levels(self, t: int, first_round: Manifest) -> Manifest:
        if self.recipe.levels.k:
            return self.levels(t, self._selection(t))
        if t == 1:
            return self.stage(1, "levels", "levels", "levels", {}, {"verdicts-1": first_round.ref})
        if self.recipe.data.schedule == "fixed":
            return self.stages["it01/levels"]
        raise RecipeError(
            "levels.k: 0 takes the levels from iteration 1's first round, which has no later slice",
            "data.schedule: fresh gives every iteration queries of its own",
            "Measure levels (--set levels.k=16), or use --set data.schedule=fixed",
        )

    def _steps(self, t: int) -> int | None:
        match self.recipe.train.match_steps:
            case None:
                return None
            case int(steps):
                return steps
            case list(steps) if t <= len(steps):
                return steps[t - 1]
            case steps:
                raise RecipeError(
                    f"train.match_steps has no number of steps for iteration {t}",
                    f"it is {steps!r}",
                    "Run the matched run for as many iterations first.",
                )


def _without_later(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings less those of `LATER` that are at their defaults, by dotted name or in their
    section."""
    for name, default in LATER.items():
        section, _, setting = name.partition(".")
        for holder, key in ((settings, name), (settings.get(section), setting)):
            if isinstance(holder, dict) and key in holder and holder[key] == default:
                del holder[key]
    return settings


ROLES = {  # entry of an iteration -> role among the report's inputs
    "explore": "explore",
    "verify": "verify",
    "explore-2": "explore2",
    "verify-2": "verify2",
    "rebalance": "examples",
    "train": "policy",
    "evaluate": "scores",
}
