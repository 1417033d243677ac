"""A user's own code: named, loaded, part of the key, its mistakes named."""

import sys

import pytest
from pydantic import ValidationError

from si.answers import Case, Verdict
from si.answers.custom import Judgement, judge_custom
from si.config.recipe import Recipe
from si.errors import RecipeError
from si.plugins import fingerprint, load
from si.records import Outcome
from si.stages import STAGES
from si.strategies import Strategy, by_name, rule_of

MINE = """
from si.records import Draw
from si.strategies import Strategy


class First(Strategy):
    def reshape(self, successes, k, rng):
        return list(successes)[:1]


class Again(Strategy):
    def resample(self, outcomes, trajectories, k, rng):
        return (Draw(outcome.query_id, 1) for outcome in outcomes if not outcome.k)


class Needy(Strategy):
    def __init__(self, what):
        self.what = what


class Stranger:
    pass


def judge(response, answer, kind):
    return response == answer
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module `mine` that can be imported; its file."""
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield file
    sys.modules.pop("mine", None)


def test_rules_are_taken_from_where_they_are(mine):
    """An own strategy has the rules that it overrides; else its partner's, or vanilla's."""
    assert rule_of("mine:First", "reshape") == "mine:First"
    assert rule_of("mine:First", "resample") == "vanilla"
    assert rule_of("mine:Again", "resample") == "mine:Again"
    assert rule_of("gr+mine:First", "resample") == "gr"
    assert rule_of("mine:Again+rp", "reshape") == "rp"
    assert rule_of("mine:Again+rp", "resample") == "mine:Again"
    for name in ("ar+mine:First", "mine:First+mine:Again", "mine:Again+mine:First"):
        assert by_name(name).reshape("abc", 8, None) == ["a"]
    (draw,) = by_name("mine:First+mine:Again").resample([Outcome("q", 4, 0)], None, 4, None)
    assert draw.query_id == "q"


@pytest.mark.parametrize("name", ["gr+tc+mine:First", "vanilla+mine:First+tc", "mine:", "a:b:c"])
def test_what_is_no_strategy_is_refused_early(name):
    """More than two parts, or something that is no name, does not pass the recipe."""
    with pytest.raises(ValidationError, match="unknown strategy"):
        Recipe(strategy=name)


def test_run_names_stay_labels():
    """The class names the run, in letters that a label may have, shortened."""
    recipe = Recipe(strategy="gr+my_rules.deep:Keep_The_Shortest")
    assert recipe.run_name == "embedded-gr-keep-the-s-k8-s0"
    assert len(Recipe(name="a" * 20, strategy=recipe.strategy).run_name) <= 30


def test_the_file_is_part_of_the_key(mine):
    """A changed file is another key; without own code keys are what they were without any."""

    def settings(stage, **recipe):
        return STAGES[stage].settings.of(Recipe(**recipe)).identity()

    before = settings("rebalance", strategy="mine:First")
    verify = settings("verify", verify={"judge": "mine:judge"})
    assert before["code"] == verify["code"] == fingerprint("mine:First")
    mine.write_text(MINE + "\n# changed\n")
    assert settings("rebalance", strategy="mine:First")["code"] != before["code"]
    assert settings("verify") == {"verify": {"math_timeout": 5.0}}
    assert "code" not in settings("rebalance", strategy="rp")


def test_custom_verdicts(mine):
    """Yes and no are verdicts of method own; a Judgement and a Verdict stay what they are."""
    judge = load("judge", "mine:judge", {})
    cases = [Case("4", ("4",), "number", id="a"), Case("5", ("4",), "number", id="b")]
    assert [(v.correct, v.method) for v in judge_custom(judge, cases)] == [
        (True, "own"),
        (False, "own"),
    ]
    full = judge_custom(lambda *_: Judgement(True, "four", "words"), cases[:1])[0]
    assert (full.correct, full.extracted, full.method) == (True, "four", "words")
    made = Verdict(True, "4")
    assert judge_custom(lambda case: made, cases[:1]) == [made]


def test_a_custom_verifier_of_one_argument_gets_the_case(mine):
    """By its signature a verifier gets id, question, choices, kind, response and reference."""
    seen = []

    def whole(case: Case) -> bool:
        seen.append(case)
        return case.choices[1] in case.response

    case = Case("a dog", ("B",), "choice", ("a cat", "a dog"), id="q7", question="What is it?")
    assert judge_custom(whole, [case])[0].correct and seen == [case]
    with pytest.raises(RecipeError, match="takes 2 arguments"):
        judge_custom(lambda response, answer: True, [case])


def test_mistakes_are_named(mine):
    """What cannot be imported, is of the wrong kind, raises or returns nonsense is said by name."""
    case = [Case("4", ("4",), "number", id="q7")]
    for name in ("nowhere:First", "mine:Nothing"):
        with pytest.raises(RecipeError, match="cannot be imported"):
            by_name(name)
    with pytest.raises(RecipeError, match="is not a strategy"):
        by_name("mine:Stranger")
    with pytest.raises(RecipeError, match="without arguments"):
        by_name("mine:Needy")
    with pytest.raises(RecipeError, match="cannot be found"):
        fingerprint("nowhere:First")
    with pytest.raises(RecipeError, match="query q7") as raised:
        judge_custom(lambda *_: 1 / 0, case)
    assert "ZeroDivisionError" in raised.value.detail
    with pytest.raises(RecipeError, match="returned 'yes'"):
        judge_custom(lambda *_: "yes", case)
    assert issubclass(type(by_name("vanilla")), Strategy)


def test_documented_import_paths_stay():
    """Paths that custom code was told to import from still lead there."""
    from si import engines, families, ports, verify
    from si.answers.custom import Judgement

    assert verify.Judgement is Judgement
    assert families.Family is engines.families.Family
    assert ports.Sampler is engines.port.Sampler and ports.Trainer is engines.port.Trainer
