"""The strategies: what they promise for any number of successes, any fail rates, any text."""

import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import pairwise
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from si.config.recipe import STRATEGIES
from si.randomness import keyed_rng
from si.records import Draw, Outcome, Trajectory
from si.strategies import (
    AdaptiveResampling,
    GuidedResampling,
    RepeatPadding,
    Strategy,
    ThresholdClipping,
    by_name,
    cut_steps,
    prefixes,
    step_ends,
)

K = st.integers(1, 16)
SUCCESSES = st.integers(0, 40).map(range)
SEED = st.integers(0, 3)


def nothing(query_id: str, source: str) -> list[Callable[[], Trajectory]]:
    return []


def never() -> Random:
    raise AssertionError("no choice is to be made here")


@st.composite
def outcomes(draw: st.DrawFn) -> tuple[int, list[Outcome]]:
    """K and the outcomes of up to 30 queries."""
    k = draw(K)
    right = draw(st.lists(st.integers(0, k), max_size=30))
    return k, [Outcome(f"q{i}", k, n) for i, n in enumerate(right)]


# --- reshaping -----------------------------------------------------------------------------


@given(SUCCESSES, K)
def test_vanilla_asks_for_nothing_and_keeps_everything(successes: range, k: int) -> None:
    """Without a strategy every success is trained on once, and nothing is sampled again."""
    assert Strategy().reshape(successes, k, never) == list(successes)
    assert list(Strategy().resample([Outcome("q", k, 0)], nothing, k, keyed_rng)) == []


@given(SUCCESSES, K, st.none() | st.integers(1, 20), SEED)
def test_tc_keeps_at_most_l(successes: range, k: int, limit: int | None, seed: int) -> None:
    """Clipping keeps min(s, L) different successes in their order, and invents none."""
    kept = ThresholdClipping(limit).reshape(successes, k, partial(keyed_rng, seed))
    assert len(kept) == min(len(successes), limit or max(1, k // 2))
    assert kept == sorted(set(kept)) and set(kept) <= set(successes)
    assert kept == ThresholdClipping(limit).reshape(successes, k, partial(keyed_rng, seed))


def test_tc_keeps_any_success_as_often_as_another() -> None:
    """Over many keys, each of five successes is among the two that are kept equally often."""
    kept = Counter(
        success
        for seed in range(2000)
        for success in ThresholdClipping(2).reshape(range(5), 8, partial(keyed_rng, seed))
    )
    assert all(abs(times - 800) < 100 for times in kept.values()) and len(kept) == 5


@given(SUCCESSES, K, SEED)
def test_rp_gives_every_solved_query_k(successes: range, k: int, seed: int) -> None:
    """Padding makes exactly K examples of a solved query, evenly, and none of an unsolved one."""
    made = RepeatPadding().reshape(successes, k, partial(keyed_rng, seed))
    assert len(made) == (k if successes else 0)
    times = Counter(made)
    assert set(times) <= set(successes)
    assert len(times) == min(len(successes), k)
    assert not times or max(times.values()) - min(times.values()) <= 1


def test_rp_repeats_in_cyclic_order() -> None:
    """Example j is success ((j-1) mod s)+1, without any randomness while s <= K."""
    assert RepeatPadding().reshape("abc", 8, never) == list("abcabcab")
    assert RepeatPadding().reshape("abc", 3, never) == list("abc")


# --- adaptive resampling -------------------------------------------------------------------


def seats(k: int, queries: list[Outcome], seed: int = 0, **settings: float | None) -> Counter[str]:
    rng = partial(keyed_rng, seed)
    drawn = AdaptiveResampling(**settings).resample(queries, nothing, k, rng)  # type: ignore[arg-type]
    made = [(draw.query_id, draw.n) for draw in drawn]
    assert all(n > 0 for _, n in made) and len(dict(made)) == len(made)
    return Counter(dict(made))


@given(outcomes(), st.sampled_from([0.3, 1.0, 3.0, 0.1, 1.7]), st.none() | st.integers(1, 40), SEED)
@example((8, [Outcome("a", 8, 0), Outcome("b", 8, 7)]), 3.0, None, 0)
def test_ar_spends_its_budget_by_fail_rate(
    drawn: tuple[int, list[Outcome]], budget: float, cap: int | None, seed: int
) -> None:
    """Samples sum to min(B, cap x unsolved), none exceeds the cap, and who fails more gets
    no fewer; two of one fail rate differ by one at most."""
    k, queries = drawn
    given_to = seats(k, queries, seed, budget=budget, cap=cap)
    unsolved = [query for query in queries if query.k < k]
    wanted = Fraction(str(budget)) * sum(k - query.k for query in queries)
    most = cap or 2 * k
    assert given_to.total() == min(int(wanted + Fraction(1, 2)), most * len(unsolved))
    assert not given_to or max(given_to.values()) <= most
    for one in queries:
        assert one.k < k or not given_to[one.query_id]
        for other in queries:
            if one.k < other.k:
                assert given_to[one.query_id] >= given_to[other.query_id]
            elif one.k == other.k:
                assert abs(given_to[one.query_id] - given_to[other.query_id]) <= 1


@given(outcomes())
def test_ar_at_factor_one_is_the_deficit(drawn: tuple[int, list[Outcome]]) -> None:
    """By default every query gets exactly K - k_i samples."""
    k, queries = drawn
    assert seats(k, queries) == {q.query_id: k - q.k for q in queries if q.k < k}


@given(outcomes(), st.sampled_from([0.3, 2.5]), st.none() | st.integers(1, 9))
def test_ar_apportions_like_the_long_way(
    drawn: tuple[int, list[Outcome]], budget: float, cap: int | None
) -> None:
    """Seats are the exact shares, found by cutting off and apportioning again, rounded to a
    whole number beside them."""
    k, queries = drawn
    given_to = seats(k, queries, budget=budget, cap=cap)
    weight = {q.query_id: k - q.k for q in queries if q.k < k}
    most = cap or 2 * k
    due: dict[str, Fraction] = {}
    left = Fraction(given_to.total())
    while weight:
        share = {q: left * w / sum(weight.values()) for q, w in weight.items()}
        over = [q for q, s in share.items() if s > most]
        if not over:
            due |= share
            break
        for q in over:
            due[q] = Fraction(most)
            left -= most
            del weight[q]
    assert all(abs(given_to[q] - share) < 1 for q, share in due.items())


def test_ar_gives_rests_to_the_largest_remainders() -> None:
    """Nine seats, due 6.55, 1.64 and 0.82: six and one are whole, the larger rests get two."""
    queries = [Outcome("a", 8, 0), Outcome("b", 8, 6), Outcome("c", 8, 7)]
    assert seats(8, queries, budget=0.85) == {"a": 6, "b": 2, "c": 1}


@given(outcomes(), st.sampled_from([0.3, 1.0, 3.0]), SEED, st.randoms(use_true_random=False))
def test_resampling_is_indifferent_to_order(
    drawn: tuple[int, list[Outcome]], budget: float, seed: int, shuffler: random.Random
) -> None:
    """The order of queries changes no draw of either resampling rule."""
    k, queries = drawn
    shuffled = queries.copy()
    shuffler.shuffle(shuffled)
    assert seats(k, queries, seed, budget=budget) == seats(k, shuffled, seed, budget=budget)
    rules = GuidedResampling()
    one, other = (
        set(rules.resample(order, worked, k, partial(keyed_rng, seed)))
        for order in (queries, shuffled)
    )
    assert one == other


# --- guided resampling ---------------------------------------------------------------------

PIECES = ["", " ", "\t", "red 3", "+ blue 4 = 7", "Answer: 7", "é≠"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=9).map("\n".join)


def trajectory(text: str, width: int = 1, source: str = "own", separator: str = "\n") -> Trajectory:
    """A response in tokens of `width` characters, with an end of turn (token 0)."""
    pieces = [text[i : i + width] for i in range(0, len(text), width)]
    ids = tuple(1 + sum(map(ord, piece)) for piece in pieces)
    ends = [min(len(text), (i + 1) * width) for i in range(len(pieces))]
    return Trajectory(text, (*ids, 0), (*ends, len(text)), source, separator)


def worked(query_id: str, source: str) -> list[Callable[[], Trajectory]]:
    """Two own trajectories of every query."""
    texts = [f"{query_id}\none\ntwo\nAnswer: 3", f"two\none\n{query_id}\nAnswer: 3\n"]
    return [partial(trajectory, text) for text in texts if source == "own"]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", []),
        ("\n\n", []),
        ("one", ["one"]),
        ("one\n", ["one\n"]),
        ("one\ntwo", ["one\n", "two"]),
        ("one\n\ntwo\n \n", ["one\n", "\ntwo\n"]),
        ("\none", ["\none"]),
    ],
)
def test_a_step_ends_behind_its_separator(text: str, steps: list[str]) -> None:
    """A separator belongs to the step that it ends; a blank piece is no step of its own."""
    ends = step_ends(text, "\n")
    assert [text[start:stop] for start, stop in pairwise([0, *ends])] == steps


@given(TEXTS)
def test_steps_are_the_pieces_that_say_something(text: str) -> None:
    """There are as many steps as pieces that are not blank, and ends rise within the text."""
    ends = step_ends(text, "\n")
    assert len(ends) == sum(bool(piece.strip()) for piece in text.split("\n"))
    assert ends == sorted(set(ends)) and all(0 < end <= len(text) for end in ends)


@pytest.mark.parametrize(
    ("n", "cuts", "steps"),
    [
        (0, 4, []),
        (1, 4, []),
        (2, 4, [1]),
        (3, 4, [1, 2]),
        (5, 4, [1, 2, 3, 4]),
        (10, 4, [2, 4, 6, 8]),
        (4, 1, [2]),
        (3, 1, [2]),
        (5, 1, [3]),
        (6, 3, [2, 3, 5]),
    ],
)
def test_cuts_are_spread_over_the_steps(n: int, cuts: int, steps: list[int]) -> None:
    """Cut s is round(s n / (S+1)), half upwards; the ends are no cuts."""
    assert cut_steps(n, cuts) == steps


@given(TEXTS, st.integers(1, 7), st.integers(1, 6))
def test_prefixes_are_proper_and_end_with_a_step(text: str, width: int, cuts: int) -> None:
    """A prefix is the shortest run of stored ids that covers a step's end; it is never the whole
    text, and never holds the end of the turn."""
    made = trajectory(text, width)
    ends = step_ends(text, "\n")
    found = prefixes(made, cuts)
    assert len(found) <= cuts and len({ids for _, ids in found}) == len(found)
    for step, ids in found:
        assert made.token_ids[: len(ids)] == ids and 0 not in ids
        covered = made.token_ends[len(ids) - 1]
        before = made.token_ends[len(ids) - 2] if len(ids) > 1 else 0
        assert before < ends[step - 1] <= covered < len(text)
    if width == 1:
        assert [step for step, _ in found] == cut_steps(len(ends), cuts)


@given(outcomes(), SEED, st.integers(1, 6))
def test_gr_fills_every_deficit(drawn: tuple[int, list[Outcome]], seed: int, cuts: int) -> None:
    """Every query gets K - k_i samples, dealt evenly to the cuts of one trajectory."""
    k, queries = drawn
    rng = partial(keyed_rng, seed)
    draws = list(GuidedResampling(cuts).resample(queries, worked, k, rng))
    assert draws == list(GuidedResampling(cuts).resample(queries, worked, k, rng))
    for query in queries:
        mine = [draw for draw in draws if draw.query_id == query.query_id]
        assert sum(draw.n for draw in mine) == k - query.k
        assert len({draw.prefix_id for draw in mine}) == len(mine) <= cuts
        assert [draw.prefix_id for draw in mine] == sorted(draw.prefix_id for draw in mine)
        assert not mine or max(d.n for d in mine) - min(d.n for d in mine) <= 1
        for draw in mine:
            options = [
                ids for made in worked(draw.query_id, "own") for _, ids in prefixes(made(), cuts)
            ]
            assert draw.prefix_ids in options and draw.source == "own"


def test_gr_without_a_cut_samples_plainly() -> None:
    """A trajectory of one step, or none at all, gives plain samples."""

    def short(query_id: str, source: str) -> list[Callable[[], Trajectory]]:
        return [partial(trajectory, "Answer: 3\n")] if query_id == "short" else []

    queries = [Outcome("short", 4, 1), Outcome("none", 4, 0), Outcome("solved", 4, 4)]
    draws = list(GuidedResampling().resample(queries, short, 4, keyed_rng))
    assert draws == [Draw("short", 3), Draw("none", 4)]


def test_gr_takes_the_first_source_that_has_one() -> None:
    """Own successes come before earlier ones, and rationales last and only where allowed."""
    has = {"a": ("own", "earlier"), "b": ("earlier", "reference"), "c": ("reference",)}

    def found(query_id: str, source: str) -> list[Callable[[], Trajectory]]:
        made = partial(trajectory, "one\ntwo", source=source)
        return [made] if source in has[query_id] else []

    queries = [Outcome(query_id, 2, 1) for query_id in has]

    def sources(reference: bool) -> list[str]:
        rule = GuidedResampling(reference=reference)
        return [draw.source for draw in rule.resample(queries, found, 2, keyed_rng)]

    assert sources(reference=False) == ["own", "earlier", "plain"]
    assert sources(reference=True) == ["own", "earlier", "reference"]


def test_gr_uses_all_trajectories_and_offsets() -> None:
    """Over many keys, each trajectory and each cut is the one that a single sample gets."""
    draws = [
        draw
        for seed in range(200)
        for draw in GuidedResampling().resample(
            [Outcome("q", 4, 3)], worked, 4, partial(keyed_rng, seed)
        )
    ]
    counted = Counter(draw.prefix_ids for draw in draws)
    assert len(counted) == 6 and min(counted.values()) > 15
    assert len({draw.prefix_id for draw in draws}) == 6


# --- composition ---------------------------------------------------------------------------


@given(outcomes(), SUCCESSES, st.sampled_from(["ar", "gr"]), st.sampled_from(["tc", "rp"]), SEED)
def test_a_composition_is_one_and_the_other(
    drawn: tuple[int, list[Outcome]], successes: range, first: str, then: str, seed: int
) -> None:
    """`gr+tc` resamples like gr and reshapes like tc, with the settings of each."""
    settings = {"tc": {"limit": 3}, "ar": {"budget": 0.5}, "gr": {"cuts": 2, "reference": True}}
    k, queries = drawn
    both, asks, keeps = (by_name(name, **settings) for name in (f"{first}+{then}", first, then))
    rng = partial(keyed_rng, seed)
    resampled = (list(s.resample(queries, worked, k, rng)) for s in (both, asks))
    assert next(resampled) == next(resampled)
    rng = partial(keyed_rng, seed, "q")
    assert both.reshape(successes, k, rng) == keeps.reshape(successes, k, rng)
    assert list(keeps.resample(queries, worked, k, rng)) == []
    assert asks.reshape(successes, k, never) == list(successes)


def test_every_strategy_of_a_recipe_has_a_rule() -> None:
    """The names that a recipe may give are the names that there are."""
    for name in STRATEGIES:
        assert isinstance(by_name(name), Strategy)
    with pytest.raises(ValueError, match=r"unknown strategy 'tc\+gr', known: vanilla, ar, gr"):
        by_name("tc+gr")
