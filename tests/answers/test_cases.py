"""What the judge must say: one test for each case of `cases/*.yaml`."""

from collections.abc import Iterator
from functools import cache

import pytest

from si.answers import Judge, Policy, Tolerance, Verdict, case
from tests.answers.corpus import Expected, load

CASES = load()


def policy(expected: Expected) -> Policy:
    """How strictly a case is judged."""
    return Policy(
        profile=expected.profile,  # type: ignore[arg-type]
        units=expected.units,  # type: ignore[arg-type]
        convert=expected.convert,
    )


def verdicts(cases: list[Expected], judge: Judge) -> list[Verdict]:
    """What a judge says of cases that share a policy."""
    return judge.judge_all(
        case(
            one.response,
            one.reference,
            one.kind,
            one.choices,
            finish_reason=one.finish_reason,
            tolerance=Tolerance(**dict(one.tolerance)) if one.tolerance else None,  # type: ignore[arg-type]
        )
        for one in cases
    )


@cache
def judged() -> dict[str, Verdict]:
    """Verdicts of all cases by id, one batch for each policy."""
    found: dict[str, Verdict] = {}
    for which in {policy(one) for one in CASES}:
        cases = [one for one in CASES if policy(one) == which]
        with Judge(which) as judge:
            said = verdicts(cases, judge)
        found |= {one.id: verdict for one, verdict in zip(cases, said, strict=True)}
    return found


def wrong(expected: Expected, verdict: Verdict) -> str:
    """What a failing test prints."""
    return f"{expected.rule}: {expected.response!r} for {expected.reference!r} gave {verdict}"


@pytest.mark.parametrize("expected", CASES, ids=lambda one: one.id)
def test_case(expected: Expected) -> None:
    """A case is judged as its file says, for the reason that it names."""
    verdict = judged()[expected.id]
    assert verdict.correct == expected.correct, wrong(expected, verdict)
    if expected.reason:
        assert verdict.reason == expected.reason, wrong(expected, verdict)
    if expected.extracted:
        assert verdict.extracted == expected.extracted, wrong(expected, verdict)


def test_there_are_as_many_to_reject_as_to_accept() -> None:
    """The corpus stays balanced, and large enough."""
    accepted = sum(one.correct for one in CASES)
    assert accepted >= 600 and len(CASES) - accepted >= accepted


@pytest.fixture(scope="module")
def lenient() -> Iterator[Judge]:
    with Judge(Policy(profile="lenient")) as judge:
        yield judge


def test_lenient_accepts_what_strict_accepts(lenient: Judge) -> None:
    """The profiles differ in what lenient adds, never in what it loses."""
    plain = Policy()
    cases = [one for one in CASES if one.correct and policy(one) == plain]
    said = zip(cases, verdicts(cases, lenient), strict=True)
    lost = [wrong(one, verdict) for one, verdict in said if not verdict.correct]
    assert not lost, "\n".join(lost)


def test_every_reference_equals_itself(lenient: Judge) -> None:
    """A response that gives a case's reference word for word is correct."""
    seen = {}
    for one in CASES:
        if isinstance(one.reference, str) and "\n" not in one.reference and not one.tolerance:
            words = (f"Answer: {one.reference}", one.reference, one.kind, one.choices)
            seen[words] = case(*words)
    with Judge(Policy()) as judge:
        said = judge.judge_all(seen.values())
    lost = [words for words, verdict in zip(seen, said, strict=True) if not verdict.correct]
    assert not lost
