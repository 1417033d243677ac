"""The judge against what public suites assert of graders."""

from functools import cache

import pytest

from si.answers import Verdict
from tests.answers.suites import PAGE, Assertion, judged, load, page

ASSERTIONS = load()


@cache
def verdicts() -> list[Verdict]:
    return judged(ASSERTIONS)


@pytest.mark.parametrize(
    ("number", "assertion"),
    list(enumerate(ASSERTIONS)),
    ids=lambda one: getattr(one, "suite", None),
)
def test_assertion(number: int, assertion: Assertion) -> None:
    """Their assertion holds, or the rule that contradicts it does."""
    verdict = verdicts()[number]
    assert verdict.correct == assertion.ours, f"{assertion}: {verdict}"


def test_every_difference_is_explained() -> None:
    """No assertion is contradicted without naming the rule."""
    assert all(one.why for one in ASSERTIONS if one.ours != one.theirs)


def test_the_page_is_up_to_date() -> None:
    """docs/agreement.md is what `python -m tests.answers.suites` writes."""
    assert PAGE.read_text() == page()
