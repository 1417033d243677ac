"""What the judge must say: one test for each case of `cases/*.yaml`."""

from collections.abc import Iterator
from functools import cache

import pytest

from si.answers import Judge, MathPool, Policy, Tolerance, Verdict, case
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
    with MathPool(size=1) as pool:
        for which in {policy(one) for one in CASES}:
            cases = [one for one in CASES if policy(one) == which]
            said = verdicts(cases, Judge(which, pool))
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
def pool() -> Iterator[MathPool]:
    with MathPool(size=1) as made:
        yield made


def test_lenient_accepts_what_strict_accepts(pool: MathPool) -> None:
    """The profiles differ in what lenient adds, never in what it loses."""
    plain = Policy()
    cases = [one for one in CASES if one.correct and policy(one) == plain]
    judge = Judge(Policy(profile="lenient"), pool)
    said = zip(cases, verdicts(cases, judge), strict=True)
    lost = [wrong(one, verdict) for one, verdict in said if not verdict.correct]
    assert not lost, "\n".join(lost)


def test_every_reference_equals_itself(pool: MathPool) -> None:
    """A response that gives a case's reference word for word is correct."""
    seen = {}
    for one in CASES:
        if isinstance(one.reference, str) and one.reference[:4] != "####" and not one.tolerance:
            words = (f"Answer: {one.reference}", one.reference, one.kind, one.choices)
            seen[words] = case(*words)
    said = Judge(Policy(), pool).judge_all(seen.values())
    lost = [words for words, verdict in zip(seen, said, strict=True) if not verdict.correct]
    assert not lost


def test_a_verdict_does_not_depend_on_what_came_before(pool):
    """Equal answers found in another way are not one entry of the memo."""
    apart = r"First \boxed{5} is the side." + "\n" + r"So the area:" + "\n" + r"\boxed{6}"
    together = r"\boxed{5} or \boxed{6}"
    cases = [case(apart, "6"), case(together, "6")]
    there = [said.correct for said in Judge(Policy(), pool).judge_all(cases)]
    back = [said.correct for said in Judge(Policy(), pool).judge_all(cases[::-1])]
    assert there == back[::-1] == [True, False]
