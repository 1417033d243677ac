"""A run's results in numbers, read once from its committed artefacts for every page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from si.answers.unread import UNREAD
from si.errors import DataError
from si.report import spurious
from si.store.artifact import Artifact
from si.store.keys import Ref, Spec
from si.store.port import Store

STRATEGIES = {
    "vanilla": "Vanilla self-improvement",
    "tc": "Threshold clipping",
    "rp": "Repeat-based padding",
    "ar": "Adaptive-weighted resampling",
    "gr": "Guided resampling",
}
SOURCES = ("own", "earlier", "reference", "plain")
SPENT = {  # an iteration's `spent` -> the title of its column
    "samples": "samples",
    "samples_2": "of round 2",
    "tokens": "sampled tokens",
    "examples": "examples",
    "train_tokens": "trained tokens",
    "steps": "gradient steps",
    "dropped": "dropped",
}


@dataclass(frozen=True)
class Iteration:
    """One iteration's figures. Iteration 0 is policy 0 and has only scores.

    Attributes:
        scores: what `evaluate` wrote, by split.
        right: split -> query id -> share of its answers that are correct (0 to 1; of a greedy
            answer, 0 or 1).
        metrics: what `rebalance` wrote: `successes` and `examples`, each with the shares by
            level and the Matthew metrics; `accuracy_by_level`, `queries_by_level`.
        spent: samples, samples_2 (second round), tokens (sampled), examples, train_tokens,
            steps, dropped (examples too long to train on).
        losses: training loss per gradient step.
        identical: share (0 to 1) of the successes with the same text as another of their query.
        sources: second-round samples by where their prefix came from: own, earlier, reference
            or plain (no prefix).
        unread: share (0 to 1) of the first round's responses without an answer to compare.
        count_spurious: what `spurious` calls, once: it reads all correct answers.
    """

    t: int
    scores: Mapping[str, Any]
    right: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, Any] | None = None
    spent: Mapping[str, int] | None = None
    losses: Sequence[float] = ()
    identical: float | None = None
    sources: Mapping[str, int] = field(default_factory=dict)
    unread: float | None = None
    count_spurious: Callable[[], Mapping[str, Any] | None] = field(
        default=lambda: None, repr=False, compare=False
    )

    @cached_property
    def spurious(self) -> Mapping[str, Any] | None:
        """Correct answers reached by wrong steps in the `first_round` and among the `examples`, as
        `si.report.spurious` counts them; None where steps cannot be checked."""
        return self.count_spurious()

    def first_round_share(self, levels: Sequence[str]) -> float | None:
        """Share (0 to 1) of these levels among the successes of the first round alone, which is
        what vanilla would have trained on; None without any."""
        figures = self.metrics or {}
        rates, queries = (figures.get(f"{n}_by_level") or {} for n in ("accuracy", "queries"))
        # Every query has K samples, so successes are in proportion to queries x pass rate.
        solved = {level: n * (rates.get(level) or 0.0) for level, n in queries.items()}
        total = sum(solved.values())
        return sum(solved.get(level, 0.0) for level in levels) / total if total else None

    def share(self, what: str, levels: Sequence[str]) -> float | None:
        """Share (0 to 1) of these levels among `successes` or `examples`; None without any."""
        shares = self.metrics[what]["share_by_level"] if self.metrics else {}
        known = [shares[level] for level in levels if shares.get(level) is not None]
        return sum(known) if known else None

    def figure(self, what: str, name: str, level: str | None = None) -> Any:
        """A figure of `successes` or `examples`, or a level's part of it; None if missing."""
        value = (self.metrics or {}).get(what, {}).get(name)
        return value.get(level) if level is not None and value is not None else value

    def pass_rate(self, level: str) -> float | None:
        """Share (0 to 1) of correct samples in the first round of a level's queries."""
        rates: Mapping[str, float | None] = (self.metrics or {}).get("accuracy_by_level", {})
        return rates.get(level)

    def samples(self, split: str) -> int:
        """Sampled answers per query of a split; 0 if the answers are greedy."""
        found: int = self.scores.get(split, {}).get("samples", 0)
        return found

    def accuracy(self, split: str, level: str | None = None) -> float | None:
        """Accuracy (0 to 1) on a split, or on its queries of one level; None without any."""
        part = self.scores.get(split)
        if part is not None and level is not None:
            part = part["by_level"].get(level)
        return None if part is None else part["accuracy"]


@dataclass(frozen=True)
class RunSummary:
    """A run's iterations from 0 on, and the three that matter: best (chosen on dev), last, and
    oracle (best on test, which cannot be chosen without the test split). None if the split was
    not scored.

    Attributes:
        levels: levels of the held-out queries, by id.
        level_samples: samples of policy 0 that the levels are measured with, the most of a query;
            None if unknown.
    """

    strategy: str
    k: int
    data: str
    iterations: tuple[Iteration, ...]
    levels: Mapping[str, str] = field(default_factory=dict)
    level_samples: int | None = None

    @property
    def last(self) -> int:
        return len(self.iterations) - 1

    @property
    def best(self) -> int | None:
        return best([it.scores for it in self.iterations], "dev")

    @property
    def best_trained(self) -> int | None:
        """The best on dev of the trained policies, without policy 0; None if there is none."""
        found = best([it.scores for it in self.iterations[1:]], "dev")
        return None if found is None else found + 1

    @property
    def oracle(self) -> int | None:
        return best([it.scores for it in self.iterations], "test")

    @property
    def trained(self) -> tuple[Iteration, ...]:
        """The iterations with exploration and training: all but policy 0's."""
        return tuple(it for it in self.iterations if it.metrics is not None)


def best(scores: Sequence[Mapping[str, Any]], split: str = "dev") -> int | None:
    """The iteration with the highest accuracy on `split`; the earliest among equals.

    Args:
        scores: the scores.json of every iteration from 0.
        split: dev to choose a policy; test only for the oracle.

    Returns:
        None if the split was not scored.
    """
    if not scores or any(split not in part for part in scores):
        return None
    return max(range(len(scores)), key=lambda t: (scores[t][split]["accuracy"], -t))


def score_name(samples: int) -> str:
    """What an accuracy is called: `accuracy` of greedy answers (0 samples), or `avg@4`."""
    return f"avg@{samples}" if samples else "accuracy"


# --- reading a run -------------------------------------------------------------------------


def collect(store: Store, refs: Mapping[str, Ref]) -> RunSummary:
    """Read a run's artefacts.

    Args:
        refs: the report stage's inputs by role: `data`, `scores-0..`, and per iteration from 1
            `examples-t`, `policy-t`, `explore-t`, `verify-t`, optionally `explore2-t`, `verify2-t`.

    Raises:
        DataError: if not even policy 0 has scores.
    """
    if "scores-0" not in refs:
        raise DataError(
            "This run has no scores yet",
            "policy 0 has not been evaluated",
            "Continue the run first: repeat its iterate command.",
        )
    iterations: list[Iteration] = []
    while f"scores-{len(iterations)}" in refs:
        iterations.append(_iteration(store, refs, len(iterations)))
    rules, k = set(), 0
    for role, ref in sorted(refs.items()):
        name = role.rsplit("-", 1)[0]
        if name == "examples":
            rules.add(Spec.load(store, ref.address).settings.get("strategy", "vanilla"))
        elif name == "explore":
            k = Spec.load(store, ref.address).params["k"]
        elif name == "explore2":
            draws = Spec.load(store, ref.address).inputs["draws"]
            rules.add(Spec.load(store, draws.address).settings["strategy"])
    rules -= {"vanilla"}
    strategy = "+".join(sorted(rules, key=lambda rule: rule not in ("ar", "gr"))) or "vanilla"
    scored = Artifact.open(store, refs["scores-0"])
    ids, levels = scored.table("scores.parquet", 0, ["query_id", "level"]).to_pydict().values()
    level_of = dict(zip(ids, levels, strict=True))
    return RunSummary(
        strategy, k, refs["data"].address, tuple(iterations), level_of, _level_samples(store, refs)
    )


def _level_samples(store: Store, refs: Mapping[str, Ref]) -> int | None:
    if "levels" not in refs:
        return None
    counts = Artifact.open(store, refs["levels"]).tables("levels.parquet", ["n"])["n"]
    found: int | None = pc.max(counts).as_py()
    return found


def _unread(store: Store, ref: Ref) -> float | None:
    """Share of a round's responses in which no answer was found that can be compared."""
    verdicts = Artifact.open(store, ref)
    if not verdicts.manifest.rows or verdicts.manifest.spec.schema < 2:  # without reasons
        return None
    reasons = verdicts.tables("verdicts.parquet", ["reason"])["reason"]
    unread = pc.sum(pc.is_in(reasons, pa.array(UNREAD))).as_py() or 0
    return float(unread / verdicts.manifest.rows)


def _iteration(store: Store, refs: Mapping[str, Ref], t: int) -> Iteration:
    scored = Artifact.open(store, refs[f"scores-{t}"])
    scores = scored.json("scores.json")
    right: dict[str, dict[str, float]] = {}
    for row in scored.table("scores.parquet", 0, ["query_id", "split", "correct"]).to_pylist():
        share = row["correct"] / scores[row["split"]].get("samples", 1)
        right.setdefault(row["split"], {})[row["query_id"]] = share
    if t == 0 or f"examples-{t}" not in refs:
        return Iteration(t, scores, right)
    facts = {
        name: Artifact.open(store, refs[f"{name}-{t}"]).manifest.facts
        if f"{name}-{t}" in refs
        else {}
        for name in ("explore", "explore2", "examples", "policy")
    }
    spent = {
        "samples": facts["explore"].get("samples", 0),
        "samples_2": facts["explore2"].get("samples", 0),
        "tokens": facts["explore"].get("tokens", 0) + facts["explore2"].get("tokens", 0),
        "examples": facts["examples"].get("examples", 0),
        "train_tokens": facts["policy"].get("tokens", 0),
        "steps": facts["policy"].get("steps", 0),
        "dropped": facts["policy"].get("dropped", 0),
    }
    sources = {}
    if f"explore2-{t}" in refs:
        draws = Spec.load(store, refs[f"explore2-{t}"].address).inputs["draws"]
        asked = Artifact.open(store, draws).manifest.facts
        sources = {name: asked.get(f"samples_{name}", 0) for name in SOURCES}
    metrics = Artifact.open(store, refs[f"examples-{t}"]).json("metrics.json")
    losses, identical = facts["policy"].get("losses", ()), facts["examples"].get("identical")
    unread = _unread(store, refs[f"verify-{t}"]) if f"verify-{t}" in refs else None
    wrong = partial(spurious.figures, store, refs, t)
    return Iteration(t, scores, right, metrics, spent, losses, identical, sources, unread, wrong)
