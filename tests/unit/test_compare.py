"""Groups of runs that differ in their seeds, and how far they are apart."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from si.records import HEAD, LEVELS
from si.report.compare import Comparison, Named, compare, page
from si.report.groups import Group, differences
from si.report.summary import Iteration, RunSummary
from si.store.folder import FolderStore
from tests.browser.made_up import make_run, settings

N = 240
IDS = [f"q{i:03d}" for i in range(N)]
LEVEL = {query: LEVELS[i % len(LEVELS)] for i, query in enumerate(IDS)}


def run(seed: int, *chances: float) -> RunSummary:
    """A run whose policies answer with these chances; the seed decides the luck."""
    iterations = []
    for t, chance in enumerate(chances):
        luck = random.Random(seed * 1000 + t)
        right = {query: luck.random() < chance for query in IDS}
        correct = sum(right.values())
        by_level = {level: {"n": N // 6, "correct": 0, "accuracy": 0.0} for level in LEVELS}
        part = {"n": N, "correct": correct, "accuracy": correct / N, "by_level": by_level}
        part["tokens_mean"] = 1.0
        shares = {"share_by_level": dict.fromkeys(LEVELS, 1 / 6), "total": 1000}
        metrics = dict.fromkeys(("successes", "examples"), shares) if t else None
        scores = {"dev": part, "test": part}
        iterations.append(Iteration(t, scores, {"dev": right, "test": right}, metrics, {}))
    return RunSummary("vanilla", 8, "data/x", tuple(iterations), LEVEL)


def group(name: str, seeds: Sequence[int], *chances: float) -> Group:
    runs = [(f"{name}-s{seed}", run(seed + 100 * len(name), *chances)) for seed in seeds]
    return Group(name, runs, tuple(seeds))


def shares(answers: Sequence[Any]) -> float:
    return sum(sum(each.values()) for each in answers) / sum(map(len, answers))


@pytest.mark.parametrize(
    "seeds,others", [((0, 1, 2), (0, 1, 2)), ((0, 1), (3, 4, 5)), ((0,), (0, 1))]
)
def test_a_difference_is_one_of_means(seeds: tuple[int, ...], others: tuple[int, ...]) -> None:
    """Over seeds the difference is that of the mean accuracies, within its interval; the same seeds
    are compared pairwise, others are not."""
    ours, theirs = group("ab", seeds, 0.4, 0.6), group("c", others, 0.4, 0.5)
    found = {each.queries: each for each in differences(ours, theirs, "last", "last")}
    assert set(found) == {"all", "head", "tail"}
    whole = found["all"]
    assert whole.value == pytest.approx(
        shares(ours.answers("last")) - shares(theirs.answers("last"))
    )
    assert whole.interval.low < whole.value < whole.interval.high
    assert whole.matched == (seeds == others)
    assert (whole.n, whole.seeds, whole.against_seeds) == (N, len(seeds), len(others))
    assert whole.change is None
    head = [{q: a[q] for q in IDS if LEVEL[q] in HEAD} for a in ours.answers("last")]
    less = [{q: a[q] for q in IDS if LEVEL[q] in HEAD} for a in theirs.answers("last")]
    assert found["head"].value == pytest.approx(shares(head) - shares(less))


def test_more_seeds_say_more() -> None:
    """Six seeds of the same two policies narrow the interval that one seed gives."""
    widths = []
    for n in (1, 6):
        ours, theirs = group("ab", range(n), 0.5, 0.6), group("c", range(n), 0.5, 0.5)
        whole = next(differences(ours, theirs, "last", "last"))
        widths.append(whole.interval.high - whole.interval.low)
    assert widths[1] < 0.75 * widths[0]


def test_one_seed_each_is_query_by_query() -> None:
    """Two single runs are compared by the queries that were won and lost."""
    ours, theirs = group("ab", [0], 0.5, 0.6), group("c", [0], 0.5, 0.5)
    whole = next(differences(ours, theirs, "best", "best"))
    assert whole.change is not None
    assert whole.value == pytest.approx(whole.change.difference)
    assert whole.interval == whole.change.interval


def test_words_and_json_have_the_interval(tmp_path: Path) -> None:
    """What is said names difference, interval and what it is over, and warns of few seeds."""
    found = Comparison([group("c", range(3), 0.4, 0.4), group("ab", range(3), 0.4, 0.8)])
    words = dict(found.words)
    assert "bootstrap over seeds and queries" in words["ab against c"]
    assert "With so few seeds" in words["ab against c"]
    assert "against policy 0" in words["ab"]
    said = json.loads(json.dumps(found.to_json()))
    assert [g["seeds"] for g in said["groups"]] == [[0, 1, 2], [0, 1, 2]]
    whole = said["differences"][0]
    assert whole["group"] == "ab" and whole["against"] == "c"
    low, high = whole["interval"]
    assert 0.2 < low < whole["value"] < high
    assert "Test accuracy over seeds" in {table.title for table in found.tables}
    assert all(len(row) == len(t.columns) for t in found.tables for row in t.rows)
    enough = Comparison([group("c", range(5), 0.4, 0.4), group("ab", range(5), 0.4, 0.8)])
    assert "few seeds" not in dict(enough.words)["ab against c"]
    assert "<svg" in page(found)


def test_runs_group_by_all_but_the_seed(tmp_path: Path) -> None:
    """Runs whose recipes differ in the seed, their length or their report are one group; another
    setting makes another; without a recipe a run stands alone."""
    store = FolderStore(tmp_path / "store")
    refs = make_run(store, tmp_path, "vanilla", 1)

    def named(name: str, **changes: Any) -> Named:
        return Named(name, refs, {**settings("vanilla"), **changes})

    found = compare(
        store,
        [
            named("demo-vanilla-s1", seed=1),
            named("demo-vanilla-s0", seed=0, iterations=9, report={"samples": 1}),
            named("demo-vanilla-k16", k=16),
            Named("alone", refs),
        ],
    )
    assert [[name for name, _ in group.runs] for group in found.groups] == [
        ["demo-vanilla-s0", "demo-vanilla-s1"],
        ["demo-vanilla-k16"],
        ["alone"],
    ]
    assert found.groups[0].name == "demo-vanilla"
    assert found.groups[0].seeds == (0, 1)


def test_trained_policies_are_compared_with_trained_ones() -> None:
    """A run that only falls has policy 0 as its best; it is compared by its best trained policy,
    and the words say that none beat policy 0."""
    falling, steady = group("c", [0], 0.8, 0.5, 0.4), group("ab", [0], 0.8, 0.75, 0.7)
    assert falling.runs[0][1].best == 0
    assert [it.t for it in falling.picked("best")] == [1]
    found = Comparison([falling, steady])
    said = dict(found.words)["ab against c"]
    best = next(each for each in found.differences if each.queries == "all")
    assert best.value > 0.1 and ": more than chance explains" in said
    assert "ahead in 2 of 2 (2 by more than chance explains) and behind in 0" in said
    never = [name for name, made in (*steady.runs, *falling.runs) if made.best == 0]
    assert f"on dev, no trained iteration of {' and '.join(never)} beat it" in said
    back = dict(Comparison([steady, falling]).words)["c against ab"]
    assert "ahead in 0 of 2 (0 by more than chance explains) and behind in 2 (2 by" in back
    table = next(t for t in found.tables if t.title.startswith("At the same iteration"))
    assert [row[1] for row in table.rows] == ["1", "2"]
    assert found.tables[0].columns[3] == "policy 0"


@pytest.mark.parametrize("chance,word", [(0.5, "no more than"), (0.8, "more than")])
def test_over_seeds_the_word_follows_the_interval(chance: float, word: str) -> None:
    """Several seeds have no sign test; their interval decides what is said, as for one."""
    found = Comparison([group("c", range(5), 0.4, 0.5), group("ab", range(5), 0.4, chance)])
    whole = next(each for each in found.differences if each.queries == "all")
    assert whole.real == (not whole.interval.low <= 0 <= whole.interval.high)
    assert whole.words == f"{word} chance explains"
    assert dict(found.words)["ab against c"].count(whole.words.capitalize()) == 1


def test_other_measures_are_not_compared() -> None:
    """Greedy accuracy against avg@4 is called what it is; alike measures are not mentioned."""
    greedy, sampled = group("c", [0], 0.4, 0.5), group("ab", [0], 0.4, 0.5)
    assert "measured differently" not in dict(Comparison([greedy, sampled]).words)["ab against c"]
    for _, made in sampled.runs:
        for it in made.iterations:
            it.scores["test"]["samples"] = 4
    found = Comparison([greedy, sampled])
    said = dict(found.words)["ab against c"]
    assert "measured differently (4 sampled answers a query against greedy answers)" in said
    assert found.tables[0].title.startswith("Test accuracy or avg@4")
