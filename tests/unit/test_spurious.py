"""Spurious successes: correct answers reached by wrong steps."""

import pytest

from si.embedded.families import DIFFICULTIES, FAMILIES, cone_steps, generate, tile_steps
from si.embedded.steps import sound
from si.report.spurious import shares

TERMS = [(1, "red", 4), (-1, "blue", 6), (1, "green", 3)]
TILES = tile_steps(TERMS, [0, 1, 2])
CONE = cone_steps(4, ("red", 3), ("blue", 5))
MIX = {(family, difficulty): 4 for family in FAMILIES for difficulty in DIFFICULTIES}


def test_rationales_are_sound() -> None:
    """The worked steps of every synthetic query pass their own check."""
    for query in generate("train", MIX, 0):
        assert sound(query["family"], query["rationale"], query["rationale"]), query["rationale"]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_tiles_may_be_taken_in_any_order(order: tuple[int, ...]) -> None:
    assert sound("tiles", TILES, tile_steps(TERMS, order))


@pytest.mark.parametrize(
    "response",
    [
        "+ red 5 = 5\n- blue 6 = -1\n+ green 2 = 1\nAnswer: 1",  # two misread digits cancel
        "+ red 4 = 4\n- blue 6 = -3\n+ green 3 = 1\nAnswer: 1",  # a wrong running total
        "+ red 4 = 4\n+ green 3 = 7\n- blue 6 = 2\nAnswer: 1",  # a wrong total, a right answer
        "+ red 4 = 4\n- blue 3 = 1\nAnswer: 1",  # a term is missing
        "+ red 4 = 4\n- blue 6 = -2\n+ pink 3 = 1\nAnswer: 1",  # another tile
        "Answer: 1",
        "I see it.\nAnswer: 1",
        f"+ red {'4' * 5000} = {'4' * 5000}\nAnswer: {'4' * 5000}",  # more digits than int takes
        "+ red 4 = 4\n- blue 6 = -2\n+ green 3 = 1",  # no answer
        "",
    ],
)
def test_wrong_steps_of_tiles(response: str) -> None:
    """A correct answer does not make its steps correct."""
    assert sound("tiles", TILES, response) is False


def test_steps_of_a_cone() -> None:
    """The readings and the areas may be exchanged; numbers may not change or be missing."""
    assert sound("cone", CONE, cone_steps(4, ("red", 3), ("blue", 5), slant_first=True))
    assert sound("cone", CONE, cone_steps(4, ("red", 3), ("blue", 5), base_first=True))
    assert sound("cone", CONE, CONE.replace("radius 4", "radius 5")) is False
    assert sound("cone", CONE, CONE.replace("radius 4\n", "")) is False
    assert sound("cone", CONE, CONE.splitlines()[-1]) is False


def test_other_steps_cannot_be_checked() -> None:
    """A family of other data, even of the same name, is not judged."""
    assert sound("sums", "1 + 2 = 3", "1 + 2 = 3") is None
    assert sound("tiles", "Red is 4.\nAnswer: 4", "Answer: 4") is None


def test_shares_by_level() -> None:
    """Correct answers with wrong steps are counted by level; what cannot be checked is not."""
    steps = {"a": ("tiles", TILES), "b": ("cone", CONE), "c": ("sums", "1 + 1")}
    responses = [("a", TILES), ("a", "Answer: 1"), ("b", CONE), ("c", "2"), ("a", "Answer: 1")]
    found = shares(responses, steps, {"a": "L1", "b": "L4", "c": "L2"})
    assert (found["n"], found["spurious"], found["share"]) == (4, 2, 0.5)
    by_level = found["share_by_level"]
    assert (by_level["L1"], by_level["L4"], by_level["L2"]) == (2 / 3, 0.0, None)
    assert shares([], steps, {})["share"] is None
