"""`si-ctl study`: its plan, and answers that follow from made-up figures in both directions."""

import pytest

from si.config.recipe import Recipe
from si.errors import RecipeError
from si.report.groups import Group
from si.report.overview import Estimate, Trace
from si.report.study import NO, OPEN, STEPS, YES, Arm, Study, answered, page, results
from si.report.summary import Iteration, RunSummary
from si.runs.study import Plan, equal_tokens, numbers

QUERIES = [f"q{i:03d}" for i in range(400)]
LEVELS = {q: "L1" if i % 4 < 2 else "L5" if i % 4 == 2 else "L3" for i, q in enumerate(QUERIES)}


def right(share: float, seed: int) -> dict[str, float]:
    """Answers of which about this share is correct, other ones for each seed."""
    return {q: float((7 * i + 31 * seed) % 100 < round(100 * share)) for i, q in enumerate(QUERIES)}


def wrong_steps(head: float, tail: float) -> dict[str, object]:
    """As `si.report.spurious.shares` counts them."""
    n, shares = {"L1": 300, "L5": 80, "U": 20}, {"L1": head, "L5": tail, "U": tail}
    levels = ("L1", "L2", "L3", "L4", "L5", "U")
    return {
        "n_by_level": {level: n.get(level, 0) for level in levels},
        "share_by_level": {level: shares.get(level) for level in levels},
    }


def made_run(strategy: str, k: int, accuracy: list[float], seed: int) -> RunSummary:
    """A run with these accuracies by iteration."""
    spent = {"samples": 100 * k, "tokens": 1_000_000 * k, "steps": 10, "examples": 480}
    iterations = tuple(
        Iteration(
            t,
            {"test": {"samples": 1, "accuracy": share, "by_level": {}, "n": len(QUERIES)}},
            {"test": right(share, seed)},
            {} if t else None,
            spent if t else None,
            count_spurious=lambda: {
                "first_round": wrong_steps(0.1, 0.3),
                "examples": wrong_steps(0.1, 0.5),
            },
        )
        for t, share in enumerate(accuracy)
    )
    return RunSummary(strategy, k, "data", iterations, LEVELS)


def made(arms: dict[Arm, tuple[list[float], list[float], list[float]]], twins=None) -> Study:
    """A study of two seeds: arm -> accuracy from iteration 0, head and tail from iteration 1."""
    groups, traces = {}, {}
    for arm, (accuracy, head, tail) in arms.items():
        runs = [
            (f"{arm.strategy}-s{s}", made_run(arm.strategy, arm.k, accuracy, s)) for s in (0, 1)
        ]
        groups[arm] = Group(arm.name, runs, (0, 1))
        sure = [[Estimate(share, 0.01) for share in part] for part in (head, tail, accuracy)]
        traces[arm] = Trace(groups[arm], *sure)
    return Study(groups, traces, twins or {})


def verdicts(study: Study, question: str) -> list[str]:
    return [each.verdict for each in study.answers if each.question == question]


PLAIN = ([0.5, 0.55, 0.6], [0.60, 0.60], [0.10, 0.10])


@pytest.mark.parametrize(
    ("head", "tail", "verdict"),
    [
        ([0.5, 0.7], [0.2, 0.05], YES),
        ([0.7, 0.5], [0.2, 0.05], NO),
        ([0.5, 0.7], [0.05, 0.2], NO),
        ([0.5, 0.51], [0.2, 0.05], OPEN),
    ],
)
def test_the_imbalance_grows_if_both_shares_say_so(head, tail, verdict):
    study = made({Arm("vanilla", 8): (PLAIN[0], head, tail)})
    assert verdicts(study, "a") == [verdict]


@pytest.mark.parametrize(
    ("more", "verdict"),
    [([0.5, 0.75, 0.6], YES), ([0.5, 0.55, 0.75], NO), ([0.5, 0.55, 0.6], OPEN)],
)
def test_doubling_k(more, verdict):
    """Much at first and nothing at the end is `yes`; much at the end is `no`."""
    study = made({Arm("vanilla", 8): PLAIN, Arm("vanilla", 16): (more, *PLAIN[1:])})
    assert verdicts(study, "b") == [verdict]
    assert not verdicts(made({Arm("vanilla", 8): PLAIN, Arm("vanilla", 12): PLAIN}), "b")


@pytest.mark.parametrize(
    ("head", "tail", "verdict"),
    [(0.4, 0.2, YES), (0.8, 0.2, NO), (0.4, 0.02, NO), (0.6, 0.2, OPEN)],
)
def test_shares_are_compared_with_vanilla(head, tail, verdict):
    study = made({Arm("vanilla", 8): PLAIN, Arm("rp", 8): (PLAIN[0], [head] * 2, [tail] * 2)})
    assert verdicts(study, "c") == [verdict]


@pytest.mark.parametrize(("last", "verdict"), [(0.75, YES), (0.45, NO), (0.6, OPEN)])
def test_a_strategy_is_ahead_by_its_interval(last, verdict):
    """Overall and on tail queries; also at equal steps, and against vanilla with its tokens."""
    ours = ([0.5, 0.55, last], *PLAIN[1:])
    arms = {
        Arm("vanilla", 8): PLAIN,
        Arm("gr", 8): ours,
        Arm("gr", 8, STEPS): ours,
        Arm("vanilla", 12): PLAIN,
    }
    study = made(arms, {Arm("gr", 8): Arm("vanilla", 12)})
    assert verdicts(study, "d") == [verdict] * 6
    about = [each.about for each in study.answers if each.question == "d"]
    assert about[2].startswith("gr, K = 8 against vanilla with its sampled tokens (K = 12)")
    assert study.ks == [8]
    same = made(arms, {Arm("gr", 8): Arm("vanilla", 8)})  # it sampled no more than vanilla
    assert verdicts(same, "d") == [verdict] * 4


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (0.7, "+20.0 points"),
        (0.5, "no gain that chance does not explain"),
        (0.3, "no gain that chance does not explain"),
    ],
)
def test_a_point_has_a_price_only_if_there_is_a_gain(last, words):
    study = made({Arm("vanilla", 8): ([0.5, 0.5, last], *PLAIN[1:])})
    (price,) = [each for each in study.answers if each.question == "e"]
    assert words in price.figures and price.verdict == ""
    assert ("a point" in price.figures) == (last > 0.5)


def test_page_tables_and_rows():
    """The page shows every answer; a row has every policy; few seeds are said to be few."""
    study = made({Arm("vanilla", 8): PLAIN, Arm("gr", 8): ([0.5, 0.6, 0.8], [0.4] * 2, [0.2] * 2)})
    html = page(study)
    assert all(each.about in html for each in study.answers) and "<script" not in html
    assert [table.title[:3] for table in answered(study)] == ["(a)", "(c)", "(d)", "(e)", "(f)"]
    (lucky, _) = [each.figures for each in study.answers if each.question == "f"]
    assert lucky == "tail: 30.0 %, 50.0 %; all: 15.0 %, 20.0 % (first round, training data)"
    assert "too narrow" in study.reserve and "2 seeds, 400 test queries" in study.reserve
    rows = results(study)
    assert len(rows) == 2 * 2 * 3
    last = rows[-1]
    assert (last["strategy"], last["seed"], last["iteration"]) == ("gr", 1, 2)
    assert last["accuracy_all"] == pytest.approx(0.8, abs=0.02) and last["tokens"] == 8_000_000
    tail = [v for q, v in right(0.8, 1).items() if LEVELS[q] == "L5"]
    assert last["accuracy_tail"] == pytest.approx(sum(tail) / len(tail))


# --- the plan --------------------------------------------------------------------------------


def test_vanilla_is_in_every_plan_and_names_differ():
    plan = Plan.of(Recipe(), "gr, rp,gr+rp", (8, 16), (0, 1), "steps,tokens")
    names = [plan.recipe(arm, seed).run_name for arm in plan.arms for seed in plan.seeds]
    assert len(set(names)) == len(names) == 2 * 2 * 7
    assert all(len(name) <= 30 for name in names)
    assert [arm.strategy for arm in plan.arms[:4]] == ["vanilla", "gr", "rp", "gr+rp"]
    assert [arm.name for arm in plan.resampling][:2] == ["gr, K = 8", "gr+rp, K = 8"]
    steps = plan.recipe(Arm("gr", 8, STEPS), 1)
    assert steps.train.match_steps == plan.recipe(Arm("vanilla", 8), 1).run_name
    assert not Plan.of(Recipe(), "gr", (8,), (0,)).resampling


def test_long_names_keep_the_control():
    plan = Plan.of(Recipe(name="a-very-long-name-abc"), "gr", (16,), (10,), "steps")
    names = [plan.recipe(arm, 10).run_name for arm in plan.arms]
    assert len(set(names)) == 3 and names[-1].startswith("steps-")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nonsense", "", "8", "0"), "nonsense"),
        (("gr", "time", "8", "0"), "--match 'time' is not a control"),
        (("gr", "", "8..", "0"), "--k '8..' is not a list of numbers"),
        (("gr", "", "8", "4..0"), "--seeds '4..0' is not a list"),
        (("gr", "", "8", "0..5000"), "--seeds '0..5000' is not a list"),
        (("gr", "", "0", "0"), "vanilla, K = 0"),
    ],
)
def test_what_is_wrong_is_named(words, said):
    strategies, match, k, seeds = words
    with pytest.raises(RecipeError) as caught:
        Plan.of(Recipe(), strategies, numbers("--k", k), numbers("--seeds", seeds), match)
    assert said in f"{caught.value.headline} {caught.value.detail}"


def test_numbers_and_equal_tokens():
    assert numbers("--seeds", "0..3,7, 2") == (0, 1, 2, 3, 7)
    assert equal_tokens(8, 1300, 1000) == 10
    assert equal_tokens(8, 900, 1000) == 8 and equal_tokens(8, 5, 0) == 8
