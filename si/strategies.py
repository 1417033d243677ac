"""The four re-balancing strategies (arXiv 2510.26474), as pure functions.

A strategy is two rules. `resample` sees the first round's outcomes and asks for a second
round of samples; `reshape` sees a query's successes of both rounds and picks what to train
on. The defaults ask for nothing and keep everything, so `Strategy()` is vanilla
self-improvement, and any resampling rule composes with any reshaping rule.

Both are functions of their arguments alone. `rng` makes the generator that belongs to a query
(`si.randomness.keyed_rng`), and is called only where there is a choice to make. Generators are
used through `random()`, the one method whose sequence Python promises to keep.
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
from si.plugins import is_own, load
from si.randomness import keyed_seed
from si.records import Draw, Outcome, Trajectory

T = TypeVar("T")
Array = npt.NDArray[Any]

# (query id, source) -> that query's successful trajectories from there, oldest first; each is
# made when it is called, since only one will be.
Trajectories = Callable[[str, str], Sequence[Callable[[], Trajectory]]]
SOURCES = ("own", "earlier", "reference")


@dataclass(frozen=True)
class Strategy:
    """Vanilla self-improvement: one round, and every correct sample is trained on."""

    def resample(
        self,
        outcomes: Iterable[Outcome],
        trajectories: Trajectories,
        k: int,
        rng: Callable[[str], Random],
    ) -> Iterator[Draw]:
        """The second round's draws.

        Args:
            outcomes: of the first round, one a query, in any order.
            trajectories: where guided resampling finds its prefixes.
            k: K, first-round samples per query.
            rng: makes the generator of a query id.

        Returns:
            Draws of at least one sample; a query's draws lie together.
        """
        return iter(())

    def reshape(self, successes: Sequence[T], k: int, rng: Callable[[], Random]) -> list[T]:
        """What to train on of one query's successes.

        Args:
            successes: in the order (round, prefix, sample); opaque, so row numbers will do.
            k: K, first-round samples per query.
            rng: makes this query's generator.

        Returns:
            Successes picked; one that is picked several times is that many examples, its
            copies 0, 1, 2 ...
        """
        return list(successes)


@dataclass(frozen=True)
class ThresholdClipping(Strategy):
    """`tc`: at most L successes a query, drawn at random, each used once.

    The head is clipped and the tail, which has fewer than L, is kept whole. The paper's L is
    not public; ours is max(1, K // 2).
    """

    limit: int | None = None

    def reshape(self, successes: Sequence[T], k: int, rng: Callable[[], Random]) -> list[T]:
        """min(successes, L) of them, in their order."""
        return _some(successes, max(1, k // 2) if self.limit is None else self.limit, rng)


@dataclass(frozen=True)
class RepeatPadding(Strategy):
    """`rp`: every solved query contributes exactly K examples, its successes in cyclic order.

    Example j = 1..K is r_{((j-1) mod s)+1} of the s successes. After a resampling round s may
    exceed K; then K of them are drawn at random. An unsolved query contributes nothing.
    """

    def reshape(self, successes: Sequence[T], k: int, rng: Callable[[], Random]) -> list[T]:
        """K successes, repetitions included; none if there is none."""
        used = _some(successes, k, rng)
        return [used[j % len(used)] for j in range(k)] if used else []


@dataclass(frozen=True)
class AdaptiveResampling(Strategy):
    """`ar`: a second round whose budget goes to queries by their rate of failure.

    Query i has weight w_i = 1 - k_i / K. B = `budget` x sum(K - k_i) samples, half rounded up,
    are apportioned by largest remainder, at most `cap` (default 2K) a query. At budget 1, the
    default, this is exactly K - k_i each, unless `cap` is below that.
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
        """Plain draws; of min(B, cap x queries with k_i < K) samples altogether."""
        failures = {outcome.query_id: k - outcome.k for outcome in outcomes if outcome.k < k}
        # The budget as it was written: 0.1 means a tenth, not the nearest binary number.
        budget = Fraction(str(self.budget)) * sum(failures.values())
        cap = 2 * k if self.cap is None else self.cap
        seats = apportion(failures, int(budget + Fraction(1, 2)), cap, rng)
        return (Draw(query_id, n) for query_id, n in seats.items() if n)


@dataclass(frozen=True)
class GuidedResampling(Strategy):
    """`gr`: a second round that continues successful trajectories from intermediate steps.

    A query with k_i < K gets K - k_i samples. One trajectory is drawn from the first source
    that has any (own successes, earlier iterations', with `reference` the data's rationale) and
    cut at up to `cuts` steps (S; the paper's number is not public). The samples are dealt to
    the cuts in turn, from a random one on. Without trajectory or cut they are plain samples.
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
        """K - k_i samples for each query with k_i < K, a draw per prefix."""
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
    """`gr+tc` and kin: first one strategy's resampling, then the other's reshaping."""

    first: Strategy
    then: Strategy

    def resample(
        self,
        outcomes: Iterable[Outcome],
        trajectories: Trajectories,
        k: int,
        rng: Callable[[str], Random],
    ) -> Iterator[Draw]:
        """The first strategy's."""
        return self.first.resample(outcomes, trajectories, k, rng)

    def reshape(self, successes: Sequence[T], k: int, rng: Callable[[], Random]) -> list[T]:
        """The second strategy's."""
        return self.then.reshape(successes, k, rng)


def by_name(
    name: str,
    tc: Mapping[str, Any] | None = None,
    ar: Mapping[str, Any] | None = None,
    gr: Mapping[str, Any] | None = None,
) -> Strategy:
    """The strategy that a recipe names, with the recipe's settings for each rule.

    Args:
        name: vanilla, tc, rp, ar, gr, `package.module:Class` of an own one, or a resampling and a
            reshaping rule joined by `+`.
        tc, ar, gr: fields of the rule's class; its defaults where left out.

    Raises:
        ValueError: if there is no such strategy.
        RecipeError: if an own one cannot be imported, or is none.
    """
    if any(is_own(part) for part in name.split("+")):
        rules = (rule_of(name, "resample"), rule_of(name, "reshape"))
        asks, keeps = (own(r) if is_own(r) else by_name(r, tc, ar, gr) for r in rules)
        return Composition(asks, keeps)
    resampling = {"ar": AdaptiveResampling(**(ar or {})), "gr": GuidedResampling(**(gr or {}))}
    reshaping = {"tc": ThresholdClipping(**(tc or {})), "rp": RepeatPadding()}
    known: dict[str, Strategy] = {"vanilla": Strategy(), **resampling, **reshaping}
    for first, asks in resampling.items():
        known |= {f"{first}+{then}": Composition(asks, keeps) for then, keeps in reshaping.items()}
    if name not in known:
        raise ValueError(f"unknown strategy {name!r}, known: {', '.join(known)}")
    return known[name]


def own(name: str) -> Strategy:
    """A strategy of the user's own, made without arguments.

    Raises:
        RecipeError: if it cannot be imported or made, or is no `Strategy`.
    """
    kind = load("strategy", name, {})
    if not (isinstance(kind, type) and issubclass(kind, Strategy)):
        raise RecipeError(
            f"{name} is no strategy", f"it is {kind!r}", "Derive it from si.strategies.Strategy."
        )
    try:
        return kind()
    except TypeError as error:
        raise RecipeError(f"{name} cannot be made without arguments", str(error)) from error


def rule_of(strategy: str, method: str) -> str:
    """The part of a recipe's strategy that resamples, or that reshapes; vanilla if none does.

    Args:
        method: `resample` or `reshape`.
    """
    ours = {"resample": RESAMPLING, "reshape": RESHAPING}[method]
    parts = strategy.split("+")
    named = [part for part in parts if part in ours]
    rest = (part for part in parts if is_own(part) and not named)
    named += [part for part in rest if _has(part, method)]
    return named[0] if named else "vanilla"


def _has(name: str, method: str) -> bool:
    """Whether an own strategy has that rule, and not vanilla's."""
    return getattr(type(own(name)), method) is not getattr(Strategy, method)


# --- what the rules are made of --------------------------------------------------------------


def _some(items: Sequence[T], n: int, rng: Callable[[], Random]) -> list[T]:
    """`n` of the items at random, in their order; all of them if there are no more."""
    if len(items) <= n:
        return list(items)
    random = rng()
    shuffled = sorted(range(len(items)), key=lambda _: random.random())
    return [items[i] for i in sorted(shuffled[:n])]


def apportion(
    weights: Mapping[str, int], seats: int, cap: int, rng: Callable[[str], Random]
) -> dict[str, int]:
    """Seats to queries in proportion to their weights, in whole numbers, by largest remainder.

    Nobody gets more than `cap`; what is cut off goes to the others in proportion. Equal
    remainders are told apart by the queries' own generators, so order of input does not matter.
    Arithmetic is exact, and done once a weight, of which there are few.

    Args:
        weights: query id -> weight > 0.
        seats: how many there are; no more than cap x queries are given.
        cap: most seats of one query.
        rng: makes the generator of a query id.
    """
    seats = min(seats, cap * len(weights))
    size = Counter(weights.values())
    share: dict[int, Fraction] = {}  # weight -> what a query of that weight is due
    left, mass = Fraction(seats), sum(weights.values())
    for weight in sorted(size, reverse=True):  # the capped ones come first
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
    """Where each step of a text ends, in characters from its beginning.

    A step ends right behind the separator that follows it, the last one with the text. A piece
    that is empty or blank is no step: it belongs to the step after it, or to none at the end.
    """
    ends, position = [], 0
    for piece in text.split(separator):
        position += len(piece) + len(separator)
        if piece and not piece.isspace():
            ends.append(min(position, len(text)))
    return ends


def cut_steps(n: int, cuts: int) -> list[int]:
    """After which of n steps to cut: the distinct values in 1..n-1 of round(s n / (S+1)),
    s = 1..S with S = `cuts`; half is rounded up, in integers."""
    parts = cuts + 1
    return sorted({(2 * s * n + parts) // (2 * parts) for s in range(1, parts)} - {0, n})


def prefixes(trajectory: Trajectory, cuts: int) -> list[tuple[int, tuple[int, ...]]]:
    """A trajectory's prefixes to continue from, as (steps, token ids), shortest first.

    A prefix is the shortest sequence of the stored ids whose text covers the step's end. It is
    a proper one: some of the text is left to say, and so the end of the turn is not in it.
    Steps that one token ends together give one prefix, the first.
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
    """`c003-1f2e3d4c`: cut after three steps; the hash tells trajectories apart."""
    return f"c{step:03d}-{keyed_seed(*ids):016x}"[:-8]


# --- for columns -----------------------------------------------------------------------------


def uses(
    strategy: Strategy, counts: Array, ids: pa.Array, k: int, rng: Callable[[str], Random]
) -> Array:
    """How many examples the strategy makes of each success.

    `strategy.reshape` is asked once for each number of successes; only where it draws at random
    is it asked for every query.

    Args:
        counts: successes of each query; they lie one after another.
        ids: the queries' ids.
        k: K, first-round samples per query.
        rng: makes the generator of a query id.
    """
    starts = np.cumsum(counts) - counts
    used = np.zeros(counts.sum(), np.int64)
    picked: list[int] = []
    for count in np.unique(counts):
        which = np.flatnonzero(counts == count)
        try:
            pattern = strategy.reshape(range(count), k, _refuse)
        except _Choice:
            names = ids.take(which).to_pylist()
            for start, name in zip(starts[which].tolist(), names, strict=True):
                picked += strategy.reshape(range(start, start + count), k, partial(rng, name))
        else:
            used[starts[which][:, None] + np.arange(count)] = _times(pattern, count)
    return used + _times(picked, len(used))


class _Choice(Exception):
    """The strategy draws at random here."""


def _refuse() -> Random:
    raise _Choice


def _times(picked: Sequence[int], n: int) -> Array:
    """How often each of the numbers 0 to n-1 was picked."""
    return np.bincount(np.array(picked, np.int64), minlength=n)
