"""The four re-balancing strategies (arXiv 2510.26474), as pure functions.

A strategy has two rules. `resample` gets the outcomes of the first round and returns the draws of
a second one. `reshape` gets the successes of one query from both rounds and picks those to train
on. The defaults draw nothing and keep everything, so `Strategy()` is vanilla self-improvement.
Any resampling rule can be combined with any reshaping rule.

Both rules depend on their arguments alone. Their argument `rng` creates the generator of a query
(`si.randomness.keyed_rng`); they call it only if there is a random choice to make. They use its
method `random()` only, the one whose sequence Python promises to keep.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from random import Random
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from si.config.recipe import RESAMPLING, RESHAPING
from si.errors import RecipeError
from si.plugins import is_custom, load
from si.randomness import keyed_seed
from si.records import Draw, Outcome, Trajectory

T = TypeVar("T")
Array = npt.NDArray[Any]

# (query id, source) -> functions that load one successful trajectory each, oldest first. Only one
# of them is called, because loading means reading stored token ids.
Trajectories = Callable[[str, str], Sequence[Callable[[], Trajectory]]]
SOURCES = ("own", "earlier", "reference")


@dataclass(frozen=True)
class Strategy:
    """`vanilla`: one round of samples, and every correct one is trained on."""

    def resample(
        self,
        outcomes: Iterable[Outcome],
        trajectories: Trajectories,
        k: int,
        rng: Callable[[str], Random],
    ) -> Iterator[Draw]:
        """The draws of the second round; none for vanilla.

        Args:
            outcomes: of the first round, one for each query, in any order.
            trajectories: looks up a query's successful trajectories, for guided prefixes.
            k: K, first-round samples per query.
            rng: creates the generator of a query id.

        Returns:
            Draws of at least one sample each; the draws of a query follow one another.
        """
        return iter(())

    def reshape(self, successes: Sequence[T], k: int, rng: Callable[[], Random]) -> list[T]:
        """The training examples that are made of one query's successes; all of them for vanilla.

        Args:
            successes: sorted by (round, prefix, sample). The rule never looks into them, so they
                may be row numbers.
            k: K, first-round samples per query.
            rng: creates the generator of this query.

        Returns:
            The successes to train on. One that occurs n times becomes n examples, with the copy
            numbers 0 to n - 1.
        """
        return list(successes)


@dataclass(frozen=True)
class ThresholdClipping(Strategy):
    """Threshold Clipping (`tc`): at most L successes per query, drawn at random, each used once.

    This clips the head; queries with at most L successes, the tail among them, are unchanged.
    `limit` is L. The paper's value is not public; our default is max(1, K // 2).
    """

    limit: int | None = None

    def reshape(self, successes: Sequence[T], k: int, rng: Callable[[], Random]) -> list[T]:
        """min(len(successes), L) of the successes, in their order."""
        limit = max(1, k // 2) if self.limit is None else self.limit
        return _random_subset(successes, limit, rng)


@dataclass(frozen=True)
class RepeatPadding(Strategy):
    """Repeat-based Padding (`rp`): every solved query contributes exactly K examples.

    Of s successes, example j = 1..K is r_{((j-1) mod s)+1}: the successes in cyclic order. After a
    second round s may exceed K; then K of them are drawn at random. An unsolved query contributes
    nothing.
    """

    def reshape(self, successes: Sequence[T], k: int, rng: Callable[[], Random]) -> list[T]:
        """K successes, with repetitions; none if the query has none."""
        used = _random_subset(successes, k, rng)
        return [used[j % len(used)] for j in range(k)] if used else []


@dataclass(frozen=True)
class AdaptiveResampling(Strategy):
    """Adaptive-weighted Resampling (`ar`): a second round, distributed by failure rate.

    Query i has weight w_i = 1 - k_i / K. B = `budget` x sum(K - k_i) samples, half rounded up, are
    apportioned by largest remainder, at most `cap` (default 2K) per query. With budget 1, the
    default, query i gets exactly K - k_i samples, unless `cap` is lower.
    """

    budget: float = 1.0
    cap: int | None = None

    def resample(
        self,
        outcomes: Iterable[Outcome],
        trajectories: Trajectories,
        k: int,
        rng: Callable[[str], Random],
    ) -> Iterator[Draw]:
        """Plain draws with min(B, cap x queries with k_i < K) samples in total."""
        failures = {outcome.query_id: k - outcome.k for outcome in outcomes if outcome.k < k}
        # Exact arithmetic on the decimal that was written: 0.1 is a tenth, not the nearest float.
        budget = Fraction(str(self.budget)) * sum(failures.values())
        cap = 2 * k if self.cap is None else self.cap
        seats = apportion(failures, int(budget + Fraction(1, 2)), cap, rng)
        return (Draw(query_id, n) for query_id, n in seats.items() if n)


@dataclass(frozen=True)
class GuidedResampling(Strategy):
    """Guided Resampling (`gr`): a second round that continues successful trajectories.

    A query with k_i < K gets K - k_i samples. One trajectory is drawn at random from the first
    source that has any: the query's own successes, those of earlier iterations and, with
    `reference`, the data set's rationale. It is cut after up to `cuts` of its steps (S; the paper's
    value is not public). The samples are dealt to the cuts in turn, starting at a random one. A
    query without a trajectory, or with one that cannot be cut, gets plain samples.
    """

    cuts: int = 4
    reference: bool = False

    def resample(
        self,
        outcomes: Iterable[Outcome],
        trajectories: Trajectories,
        k: int,
        rng: Callable[[str], Random],
    ) -> Iterator[Draw]:
        """K - k_i samples for each query with k_i < K, as one draw per prefix."""
        for query_id, _, right in outcomes:
            if right < k:
                yield from self._guided(query_id, k - right, trajectories, rng)

    def _guided(
        self, query_id: str, n: int, trajectories: Trajectories, rng: Callable[[str], Random]
    ) -> Iterator[Draw]:
        sources = SOURCES if self.reference else SOURCES[:-1]
        candidates = (trajectories(query_id, source) for source in sources)
        found = next((some for some in candidates if some), None)
        if found is None:
            yield Draw(query_id, n)
            return
        random = rng(query_id)
        trajectory = found[int(random.random() * len(found))]()
        guides = prefixes(trajectory, self.cuts)
        if not guides:
            yield Draw(query_id, n)
            return
        offset = int(random.random() * len(guides))
        dealt = Counter((offset + j) % len(guides) for j in range(n))
        for turn, (step, ids) in enumerate(guides):
            if dealt[turn]:
                yield Draw(query_id, dealt[turn], _prefix_id(step, ids), ids, trajectory.source)


@dataclass(frozen=True)
class Composition(Strategy):
    """`gr+tc` and the like: the resampling rule of one strategy, the reshaping rule of another."""

    first: Strategy
    then: Strategy

    def resample(
        self,
        outcomes: Iterable[Outcome],
        trajectories: Trajectories,
        k: int,
        rng: Callable[[str], Random],
    ) -> Iterator[Draw]:
        """The draws of the first strategy."""
        return self.first.resample(outcomes, trajectories, k, rng)

    def reshape(self, successes: Sequence[T], k: int, rng: Callable[[], Random]) -> list[T]:
        """The examples of the second strategy."""
        return self.then.reshape(successes, k, rng)


def by_name(
    name: str,
    tc: Mapping[str, Any] | None = None,
    ar: Mapping[str, Any] | None = None,
    gr: Mapping[str, Any] | None = None,
) -> Strategy:
    """The strategy that a recipe names, with the recipe's settings for its rules.

    Args:
        name: vanilla, tc, rp, ar or gr; `package.module:Class` of a custom one; or a resampling
            and a reshaping rule, joined by `+`.
        tc, ar, gr: values for the fields of that rule's class; its defaults where left out.

    Raises:
        ValueError: if there is no strategy of this name.
        RecipeError: if a custom strategy cannot be loaded (`load_custom`).
    """
    if any(is_custom(part) for part in name.split("+")):
        rules = (rule_of(name, "resample"), rule_of(name, "reshape"))
        first, then = (load_custom(r) if is_custom(r) else by_name(r, tc, ar, gr) for r in rules)
        return Composition(first, then)
    resampling = {"ar": AdaptiveResampling(**(ar or {})), "gr": GuidedResampling(**(gr or {}))}
    reshaping = {"tc": ThresholdClipping(**(tc or {})), "rp": RepeatPadding()}
    known: dict[str, Strategy] = {"vanilla": Strategy(), **resampling, **reshaping}
    for name_1, rule_1 in resampling.items():
        for name_2, rule_2 in reshaping.items():
            known[f"{name_1}+{name_2}"] = Composition(rule_1, rule_2)
    if name not in known:
        raise ValueError(f"unknown strategy {name!r}, known: {', '.join(known)}")
    return known[name]


def load_custom(name: str) -> Strategy:
    """An instance of a custom strategy, created without arguments.

    Args:
        name: `package.module:Class`.

    Raises:
        RecipeError: if it cannot be imported, is not derived from `Strategy`, or needs arguments.
    """
    found = load("strategy", name, {})
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise RecipeError(
            f"{name} is not a strategy",
            f"it is {found!r}",
            "Derive the class from si.strategies.Strategy.",
        )
    try:
        return found()
    except TypeError as error:
        raise RecipeError(
            f"The strategy {name} cannot be created without arguments",
            str(error),
            "Give every argument of its __init__ a default.",
        ) from error


def rule_of(strategy: str, method: str) -> str:
    """The part of a strategy's name whose rule resamples, or reshapes; vanilla if none does.

    Args:
        strategy: a name as `by_name` takes it, such as `gr+tc`.
        method: `resample` or `reshape`.
    """
    ours = {"resample": RESAMPLING, "reshape": RESHAPING}[method]
    parts = strategy.split("+")
    named = [part for part in parts if part in ours]
    rest = (part for part in parts if is_custom(part) and not named)
    named += [part for part in rest if _overrides(part, method)]
    return named[0] if named else "vanilla"


def _overrides(name: str, method: str) -> bool:
    """Whether a custom strategy replaces vanilla's rule."""
    return getattr(type(load_custom(name)), method) is not getattr(Strategy, method)


# --- parts of the rules ----------------------------------------------------------------------


def _random_subset(items: Sequence[T], n: int, rng: Callable[[], Random]) -> list[T]:
    """`n` items drawn at random, in their original order; all of them if there are at most n."""
    if len(items) <= n:
        return list(items)
    random = rng()
    shuffled = sorted(range(len(items)), key=lambda _: random.random())
    return [items[i] for i in sorted(shuffled[:n])]


def apportion(
    weights: Mapping[str, int], seats: int, cap: int, rng: Callable[[str], Random]
) -> dict[str, int]:
    """Distribute seats over queries in proportion to their weights, by largest remainder.

    What `cap` takes from a query goes to the others in proportion. Ties between equal remainders
    are broken by the queries' own generators, so the order of the input does not matter. The
    arithmetic is exact, and done once per distinct weight, of which there are few.

    Args:
        weights: query id -> weight > 0.
        seats: how many to distribute; at most cap x queries are.
        cap: most seats of one query.
        rng: creates the generator of a query id.

    Returns:
        Query id -> seats; the queries of `weights` in their order, those without a seat included.
    """
    seats = min(seats, cap * len(weights))
    size = Counter(weights.values())
    share: dict[int, Fraction] = {}  # weight -> exact share of a query with that weight
    left, mass = Fraction(seats), sum(weights.values())
    for weight in sorted(size, reverse=True):  # the heaviest reach the cap first
        share[weight] = min(Fraction(cap), left * weight / mass)
        left -= size[weight] * share[weight]
        mass -= size[weight] * weight
    whole = {weight: int(due) for weight, due in share.items()}
    given = {query_id: whole[weight] for query_id, weight in weights.items()}
    spare = seats - sum(size[weight] * n for weight, n in whole.items())
    for rest in sorted({due % 1 for due in share.values()}, reverse=True):
        if not spare:
            break
        tied = {weight for weight, due in share.items() if due % 1 == rest}
        lucky = [query_id for query_id, weight in weights.items() if weight in tied]
        if len(lucky) > spare:
            lucky = sorted(lucky, key=lambda query_id: (rng(query_id).random(), query_id))[:spare]
        for query_id in lucky:
            given[query_id] += 1
        spare -= len(lucky)
    return given


def step_ends(text: str, separator: str) -> list[int]:
    """Where each step of a text ends, as character offsets.

    A step ends behind the separator that follows it; the last one ends with the text. Empty and
    blank pieces are not steps: they belong to the step after them, or to none at the end.
    """
    ends, position = [], 0
    for piece in text.split(separator):
        position += len(piece) + len(separator)
        if piece and not piece.isspace():
            ends.append(min(position, len(text)))
    return ends


def cut_steps(n: int, cuts: int) -> list[int]:
    """After which of n steps to cut, ascending.

    The distinct values in 1..n-1 of round(s n / (S + 1)) for s = 1..S, with S = `cuts`; half is
    rounded up, in integers.
    """
    parts = cuts + 1
    return sorted({(2 * s * n + parts) // (2 * parts) for s in range(1, parts)} - {0, n})


def prefixes(trajectory: Trajectory, cuts: int) -> list[tuple[int, tuple[int, ...]]]:
    """The prefixes from which a trajectory can be continued, shortest first.

    A prefix is the shortest sequence of stored token ids whose text covers a step's end. Some of
    the text always follows it, so it never contains the end of the turn. Where one token ends
    several steps, they give one prefix, which counts as the first of them.

    Args:
        cuts: S, at most how many prefixes.

    Returns:
        (number of steps, token ids) for each prefix.
    """
    text, ids, token_ends = trajectory.text, trajectory.token_ids, trajectory.token_ends
    ends = step_ends(text, trajectory.separator)
    found: dict[int, int] = {}  # number of tokens -> number of steps
    for step in cut_steps(len(ends), cuts):
        length = bisect_left(token_ends, ends[step - 1]) + 1
        if length < len(ids) and token_ends[length - 1] < len(text):
            found.setdefault(length, step)
    return [(step, ids[:length]) for length, step in found.items()]


def _prefix_id(step: int, ids: Sequence[int]) -> str:
    """`c003-1f2e3d4c`: three steps, and a hash of the token ids."""
    return f"c{step:03d}-{keyed_seed(*ids):016x}"[:-8]


# --- strategies on columns -------------------------------------------------------------------


def uses(
    strategy: Strategy, counts: Array, ids: pa.Array, k: int, rng: Callable[[str], Random]
) -> Array:
    """How many examples the strategy makes of each success.

    `strategy.reshape` is called once for each distinct number of successes. Only where it draws at
    random is it called for every query.

    Args:
        counts: [queries], successes of each query; the successes of a query follow one another.
        ids: [queries], the queries' ids.
        k: K, first-round samples per query.
        rng: creates the generator of a query id.

    Returns:
        [sum of counts], the number of examples of each success; 0 for those that are dropped.
    """
    starts = np.cumsum(counts) - counts
    used = np.zeros(counts.sum(), np.int64)
    picked: list[int] = []
    for count in np.unique(counts):
        which = np.flatnonzero(counts == count)
        try:
            pattern = strategy.reshape(range(count), k, _no_rng)
        except _RandomChoice:
            names = ids.take(which).to_pylist()
            for start, name in zip(starts[which].tolist(), names, strict=True):
                picked += strategy.reshape(range(start, start + count), k, partial(rng, name))
        else:
            used[starts[which][:, None] + np.arange(count)] = _occurrences(pattern, count)
    return used + _occurrences(picked, len(used))


class _RandomChoice(Exception):
    """Raised in place of a generator: the strategy draws at random here."""


def _no_rng() -> Random:
    raise _RandomChoice


def _occurrences(picked: Sequence[int], n: int) -> Array:
    """How often each of the numbers 0 to n-1 occurs."""
    return np.bincount(np.array(picked, np.int64), minlength=n)
