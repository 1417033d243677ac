"""One run: what each step of the loop reads."""

from dataclasses import dataclass
from itertools import count
from typing import Any

from si.datasets import sources
from si.datasets.dataset import Dataset
from si.datasets.port import Hub
from si.entry import ROLES, Entry
from si.errors import DataError, NothingToTrain, RecipeError
from si.plugins import label
from si.records import EVALUATION
from si.runner import DATA, POLICY, Runner
from si.runs.limits import PATIENCE, Stop, out_of_patience
from si.stages import evaluate, explore, levels, rebalance, report, resample, train, verify
from si.stages.explore import Params as ExploreParams
from si.stages.explore import Slice
from si.store.artifact import Artifact
from si.store.commit import Manifest
from si.store.keys import Ref, Spec, read_record
from si.strategies import rule_of

# What says which data set it is.
WISH = ("data.source", "data.map", "data.split", "data.answer_kind", "data.skip_bad")
# That, and which policy 0: all that may have to be brought from a hub.
WISHES = (*WISH, "model.source")


@dataclass
class Run(Runner):
    """One run: what each step of the loop reads.

    Attributes:
        hub: where models and data sets are published; None if none is reached from here.
    """

    hub: Hub | None = None

    @property
    def base(self) -> Manifest:
        """Policy 0."""
        return self.stages[POLICY]

    @property
    def data(self) -> Manifest:
        return self.stages[DATA]

    # -- the steps, in the order of the loop ------------------------------------------------

    def prepare(self) -> None:
        """Data, policy 0, and the levels of the held-out queries."""
        self.begin(DATA, 1)
        self.complete(DATA, self._find_data())
        self.begin(POLICY, 1)
        self.complete(POLICY, self._find_policy())
        self.dataset = Dataset(Artifact(self.store, self.data))
        self._check_data()
        self.held_out_levels = self.levels(0, self._held_out())

    def _salt(self) -> dict[str, Any]:
        return {"generation": self.generation} if self.generation > 1 else {}

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
            return self._explore(Entry(t, "explore"), inputs, 1, self.recipe.k, self._selection(t))
        inputs["draws"] = draws.ref
        return self._explore(Entry(t, "explore-2"), inputs, 2, 0, [], draws.facts["queries"])

    def verify(self, t: int, rollouts: Manifest, step: str = "verify") -> Manifest:
        """Decide whether each rollout is correct, shard by shard."""
        if rollouts.spec.params["round"] == 2:
            step = "verify-2"
        inputs = {"data": self.data.ref, "rollouts": rollouts.ref}
        settings, params = verify.Settings.of(self.recipe), verify.Params()
        spec = rollouts.spec
        return self.stage(Entry(t, step), spec.name, settings, params, inputs, spec.shards)

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
                for role, step in (("rollouts", "explore"), ("verdicts", "verify")):
                    inputs[f"earlier-{role}-{earlier}"] = self.stages[Entry(earlier, step)].ref
        settings = resample.Settings.of(self.recipe)
        params = resample.Params(iteration=t, k=self.recipe.k)
        name = f"it{t:02d}-{label(rule)}"
        return self.stage(Entry(t, "resample"), name, settings, params, inputs)

    def rebalance(self, t: int, rounds: list[tuple[Manifest, Manifest]]) -> Manifest:
        """The training examples of this iteration."""
        rule = rule_of(self.recipe.strategy, "reshape")
        inputs = {"data": self.data.ref, "levels": self._train_levels(t, rounds[0][1]).ref}
        for number, (rollouts, verdicts) in enumerate(rounds, 1):
            inputs[f"rollouts-{number}"] = rollouts.ref
            inputs[f"verdicts-{number}"] = verdicts.ref
        settings = rebalance.Settings.of(self.recipe)
        params = rebalance.Params(iteration=t, k=self.recipe.k)
        name = f"it{t:02d}-{label(rule)}"
        examples = self.stage(Entry(t, "rebalance"), name, settings, params, inputs)
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
        pool = [examples]
        if self.recipe.train.pool == "all":
            pool = [self.stages[Entry(i, "rebalance")] for i in range(1, t + 1)]
        start = previous if self.recipe.train.init == "previous" else self.base
        inputs = {"data": self.data.ref, "base": self.base.ref, "start": start.ref}
        inputs |= {f"examples-{number}": made.ref for number, made in enumerate(pool, 1)}
        settings = train.Settings.of(self.recipe)
        params = train.Params(iteration=t, steps=self._steps(t), seed=self.recipe.seed)
        return self.stage(Entry(t, "train"), f"it{t:02d}", settings, params, inputs)

    def evaluate(self, t: int, policy: Manifest) -> Manifest:
        """Answer the held-out queries, greedily or several times each; verify, score."""
        rollouts = self._answers(t, policy)
        verdicts = self.verify(t, rollouts, "evaluate-verify")
        inputs = {
            "data": self.data.ref,
            "levels": self.held_out_levels.ref,
            "rollouts": rollouts.ref,
            "verdicts": verdicts.ref,
        }
        settings = evaluate.Settings.of(self.recipe)
        asked = self.recipe.evaluate
        params = evaluate.Params(
            iteration=t,
            splits=list(asked.splits),
            samples=0 if asked.greedy else asked.samples,
            temperature=None if asked.greedy else self.recipe.evaluation_temperature,
        )
        return self.stage(Entry(t, "evaluate"), f"it{t:02d}", settings, params, inputs)

    def _answers(self, t: int, policy: Manifest) -> Manifest:
        """The answers to the held-out queries. Their seeds do not depend on the iteration, so
        policies are compared on common random numbers."""
        asked, select = self.recipe.evaluate, self._held_out()
        temperature = self.recipe.evaluation_temperature
        usual = asked.greedy or temperature == self.recipe.sampling.temperature
        params = ExploreParams(
            iteration=0,
            round=0 if asked.greedy else EVALUATION,
            k=asked.samples,
            select=select,
            shard_queries=self.recipe.held_out_shard,
            greedy=asked.greedy,
            temperature=None if usual else temperature,
        )
        name = "heldout" if asked.greedy else f"heldout-n{asked.samples}"
        inputs = {"policy": policy.ref, "data": self.data.ref, "base": self.base.ref}
        return self._sample(Entry(t, "evaluate-explore"), name, inputs, params, _size(select))

    def enough(self, t: int) -> bool:
        """Whether the run ends here, since dev has not gained for as long as patience allows."""
        patience = self.recipe.patience
        if patience is None or t == self.recipe.iterations:
            return False
        facts = [self.stages[Entry(i, "evaluate")].facts for i in range(t + 1)]
        scores = [found["accuracy_dev"] for found in facts if "accuracy_dev" in found]
        why = out_of_patience(scores, patience) if len(scores) > t else None  # a plan has none
        if why:
            self.stopped = Stop(PATIENCE, patience, t, str(Entry(t + 1, "explore")), 0, why)
        return why is not None

    def report(self, last: int) -> Manifest:
        """The page about this run, from everything that it made in `last` iterations."""
        inputs = {"data": self.data.ref, "levels": self.held_out_levels.ref}
        for t in range(last + 1):
            for step, role in ROLES.items():
                done = self.stages.get(Entry(t, step))
                if done is not None:
                    inputs[f"{role}-{t}"] = done.ref
        return self.report_on(inputs, last)

    def report_on(self, inputs: dict[str, Ref], last: int) -> Manifest:
        """The page about artefacts by role, whichever version of si-ctl made them.

        Args:
            inputs: as `si.runs.status.report_inputs` finds them in a store.
            last: the last iteration that they are about.
        """
        name = f"{self.recipe.strategy_label}-k{self.recipe.k}"
        settings, params = report.Settings.of(self.recipe), report.Params(iterations=last)
        spec = self.spec(Entry(last, "report"), name, settings, params, inputs)
        return self.stage(self._report_entry(last, spec), name, settings, params, inputs)

    def _report_entry(self, t: int, spec: Spec) -> Entry:
        """`report`; or `report-2` and so on, beside reports of this run unlike this one, which
        another version of si-ctl may have made: nothing is built on a report, so none is in the
        way."""
        for number in count(1):
            entry = Entry(t, "report" if number == 1 else f"report-{number}")
            address = f"{self.folder}/{entry}.json"
            if not self.store.exists(address):
                break
            if read_record(self.store, address, lambda raw: raw["key"]) == spec.key:
                break
        return entry

    def _explore(
        self,
        entry: Entry,
        inputs: dict[str, Ref],
        number: int,
        k: int,
        select: list[Slice],
        queries: int | None = None,
    ) -> Manifest:
        """Samples for levels (round 0), of the first round or of the second."""
        params = ExploreParams(
            iteration=entry.t if number else 0,
            round=number,
            k=k,
            select=select,
            shard_queries=self.recipe.explore.shard_queries,
            greedy=False,
        )
        name = f"it{entry.t:02d}-r{number}-k{k or 'draws'}" if number else "levels"
        queries = _size(select) if queries is None else queries
        return self._sample(entry, name, inputs, params, queries)

    def _sample(
        self,
        entry: Entry,
        name: str,
        inputs: dict[str, Ref],
        params: ExploreParams,
        queries: int,
    ) -> Manifest:
        settings, shards = explore.Settings.of(self.recipe), -(-queries // params.shard_queries)
        return self.stage(entry, name, settings, params, inputs, shards)

    def _selection(self, t: int) -> list[Slice]:
        """The training queries of iteration t, as rows of the split in the data's own order."""
        size = self.dataset.size("train")
        if self.recipe.data.schedule == "fixed":
            return [Slice(split="train", start=0, stop=size)]
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
        return [Slice(split="train", start=(t - 1) * width, stop=t * width)]

    def _held_out(self) -> list[Slice]:
        limit = self.recipe.evaluate.limit
        sizes = {split: self.dataset.size(split) for split in self.recipe.evaluate.splits}
        return [
            Slice(split=split, start=0, stop=min(size, limit or size))
            for split, size in sizes.items()
        ]

    def levels(self, t: int, select: list[Slice]) -> Manifest:
        """Levels of these queries: the data's own if they are this policy's, else measured."""
        facts = self.data.facts
        if facts.get("levels_policy") == self.base.content and self.recipe.levels.k:
            return self.data
        inputs = {"policy": self.base.ref, "data": self.data.ref, "base": self.base.ref}
        k = self.recipe.levels.k or self.recipe.k
        rollouts = self._explore(Entry(t, "levels-explore"), inputs, 0, k, select)
        verdicts = self.verify(t, rollouts, "levels-verify")
        return self._levels(t, verdicts)

    def _levels(self, t: int, verdicts: Manifest) -> Manifest:
        settings, params = levels.Settings.of(self.recipe), levels.Params()
        inputs = {"verdicts-1": verdicts.ref}
        return self.stage(Entry(t, "levels"), "levels", settings, params, inputs)

    def _train_levels(self, t: int, first_round: Manifest) -> Manifest:
        if self.recipe.levels.k:
            return self.levels(t, self._selection(t))
        if t == 1:
            return self._levels(1, first_round)
        if self.recipe.data.schedule == "fixed":
            return self.stages[Entry(1, "levels")]
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


def _size(select: list[Slice]) -> int:
    """How many queries these slices have."""
    return sum(piece.stop - piece.start for piece in select)
