"""Properties of equality: spellings of one value agree, other values never do."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import mpmath
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from si.answers import Judge, MathPool, Policy, case

mpmath.mp.dps = 60


@dataclass(frozen=True)
class Term:
    """A constant in LaTeX, in Unicode, in plain text, and its value."""

    latex: str
    unicode: str
    plain: str
    value: Any

    def spellings(self) -> list[str]:
        return [f"${self.latex}$", self.latex, self.unicode, self.plain]


def whole(n: int) -> Term:
    return Term(str(n), str(n), str(n), mpmath.mpf(n))


def root(n: int) -> Term:
    return Term(f"\\sqrt{{{n}}}", f"√{n}", f"sqrt({n})", mpmath.sqrt(n))


def plus(a: Term, b: Term) -> Term:
    value = a.value + b.value
    return Term(
        f"{a.latex}+{b.latex}", f"{a.unicode} + {b.unicode}", f"{a.plain} + {b.plain}", value
    )


def minus(a: Term, b: Term) -> Term:
    texts = (f"{a.latex}-({b.latex})", f"{a.unicode} − ({b.unicode})", f"{a.plain} - ({b.plain})")
    return Term(*texts, a.value - b.value)


def times(a: Term, b: Term) -> Term:
    texts = (
        f"\\left({a.latex}\\right) \\cdot \\left({b.latex}\\right)",
        f"({a.unicode})·({b.unicode})",
        f"({a.plain})*({b.plain})",
    )
    return Term(*texts, a.value * b.value)


def over(a: Term, b: Term) -> Term:
    assume(abs(b.value) > 1e-20)
    texts = (
        f"\\frac{{{a.latex}}}{{{b.latex}}}",
        f"({a.unicode})/({b.unicode})",
        f"({a.plain})/({b.plain})",
    )
    return Term(*texts, a.value / b.value)


def square(a: Term) -> Term:
    assume(abs(a.value) > 1e-20)  # a zero that is one to forty digits only has no exact power
    texts = (f"\\left({a.latex}\\right)^2", f"({a.unicode})²", f"({a.plain})^2")
    return Term(*texts, a.value**2)


PI = Term("\\pi", "π", "pi", +mpmath.pi)
LEAVES = st.integers(1, 30).map(whole) | st.integers(2, 30).map(root) | st.just(PI)
TERMS = st.recursive(
    LEAVES,
    lambda part: st.one_of(
        st.builds(plus, part, part),
        st.builds(minus, part, part),
        st.builds(times, part, part),
        st.builds(over, part, part),
        st.builds(square, part),
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with MathPool(size=1) as pool:
        yield Judge(Policy(), pool)


def correct(judge: Judge, answer: str, reference: str, kind: str | None = None) -> bool:
    return judge.judge(case(f"Answer: {answer}", reference, kind)).correct


@settings(max_examples=150, deadline=None)
@given(TERMS)
def test_spellings_of_one_constant_agree(judge: Judge, term: Term) -> None:
    """LaTeX, Unicode and plain text are equal in all directions."""
    for reference in (term.latex, term.plain):
        for answer in term.spellings():
            assert correct(judge, answer, reference, "expression"), (answer, reference)


@settings(max_examples=150, deadline=None)
@given(TERMS, TERMS)
def test_constants_are_equal_if_and_only_if_their_values_are(
    judge: Judge, one: Term, other: Term
) -> None:
    """Equal at sixty digits means equal; anything else is different."""
    same = abs(one.value - other.value) < mpmath.mpf(10) ** -50
    assert correct(judge, one.latex, other.latex, "expression") == same


@settings(max_examples=150, deadline=None)
@given(TERMS, st.integers(1, 9), st.integers(1, 6))
def test_rewritten_constants_agree(judge: Judge, term: Term, n: int, digits: int) -> None:
    """A value plus and minus n, times and over n, is itself; a little more is not."""
    back = minus(plus(term, whole(n)), whole(n))
    scaled = over(times(term, whole(n)), whole(n))
    near = plus(term, Term(*[f"0.{'0' * digits}1"] * 3, mpmath.mpf(10) ** -(digits + 1)))
    assert correct(judge, back.latex, term.latex, "expression")
    assert correct(judge, scaled.unicode, term.latex, "expression")
    assert not correct(judge, near.latex, term.latex, "expression")


def polynomial(parts: list[int], letter: str = "x", power: str = "^") -> str:
    """Coefficients from the constant on, highest power first: `2x^2 - x + 3`."""
    terms = []
    for degree, n in reversed(list(enumerate(parts))):
        name = ("", letter, f"{letter}{power}{degree}")[min(degree, 2)]
        if n:
            size = "" if abs(n) == 1 and degree else str(abs(n))
            terms.append(f"{'-' if n < 0 else '+'} {size}{name}")
    return " ".join(terms).removeprefix("+ ") or "0"


@settings(max_examples=150, deadline=None)
@given(
    st.integers(-9, 9),
    st.integers(-9, 9),
    st.integers(1, 9),
    st.integers(0, 2),
    st.integers(1, 3),
)
def test_polynomials_agree_factored_and_expanded(
    judge: Judge, p: int, q: int, a: int, place: int, off: int
) -> None:
    """A product equals its expansion; another coefficient, letter or sign does not."""
    assume(p + q)  # a line that is none may be written in more ways
    parts = [a * p * q, a * (p + q), a]
    product = f"{a}({polynomial([p, 1])})({polynomial([q, 1])})"
    other = [n + off * (i == place) for i, n in enumerate(parts)]
    assert correct(judge, f"${product}$", polynomial(parts), "expression")
    assert correct(judge, polynomial(parts, power="**"), product, "expression")
    assert not correct(judge, polynomial(other), product, "expression")
    assert not correct(judge, polynomial(parts, "t"), product, "expression")
    line = f"y = {polynomial(parts[:2])}"
    assert correct(judge, f"$f(x) = {polynomial(parts[:2])}$", line, "equation")
    assert not correct(judge, f"$y = {polynomial([parts[0] + off, parts[1]])}$", line, "equation")


@settings(max_examples=200, deadline=None)
@given(st.fractions(max_denominator=10**6), st.integers(1, 9))
def test_fractions_agree_however_written(judge: Judge, value: Fraction, scale: int) -> None:
    """A fraction equals itself expanded and in LaTeX, and nothing beside it."""
    a, b = value.numerator * scale, value.denominator * scale
    sign = "-" if a < 0 else ""
    assert correct(judge, f"{a}/{b}", str(value))
    assert correct(judge, f"${sign}\\frac{{{abs(a)}}}{{{b}}}$", str(value))
    assert not correct(judge, f"{a + 1}/{b}", str(value))
    assert not correct(judge, f"{a}/{b + 1}", str(value)) or a == 0


@settings(max_examples=200, deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(0, 6))
def test_decimals_are_exact(judge: Judge, n: int, places: int) -> None:
    """Grouped digits, trailing zeros and units keep the value; another digit does not."""
    text, grouped = (form.format(Decimal(n).scaleb(-places)) for form in ("{:f}", "{:,f}"))
    for answer in (grouped, f"${text}$", f"{text} cm", f"**{text}**."):
        assert correct(judge, answer, text, "number"), answer
    assert not correct(judge, f"{text}{'' if places else '.0'}1", text, "number")
    assert not correct(judge, f"-{text}".replace("--", ""), text, "number") or n == 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-20, 20), min_size=2, max_size=4),
    st.lists(st.integers(-20, 20), min_size=2, max_size=4),
)
def test_collections_compare_as_what_they_are(judge: Judge, a: list[int], b: list[int]) -> None:
    """Tuples by order, bare lists by what is in them and how often, sets by what is in them."""
    one, other = (", ".join(map(str, part)) for part in (a, b))
    assert correct(judge, f"({one})", f"({other})", "tuple") == (a == b)
    assert correct(judge, f"({one})", f"({one})", "tuple")
    assert correct(judge, one, other, "set") == (sorted(a) == sorted(b))
    assert correct(judge, ", ".join(map(str, reversed(a))), one, "set")


@settings(max_examples=100, deadline=None)
@given(
    st.integers(-20, 20),
    st.integers(1, 20),
    st.sampled_from("[("),
    st.sampled_from("])"),
    st.sampled_from("[("),
    st.sampled_from("])"),
)
def test_interval_and_inequality(
    judge: Judge, low: int, width: int, left: str, right: str, start: str, stop: str
) -> None:
    """An interval equals the inequality with the same ends, and no other."""
    high = low + width
    signs = {"[": "\\le", "(": "<", "]": "\\le", ")": "<"}
    answer = f"${low} {signs[start]} x {signs[stop]} {high}$"
    reference = f"{left}{low}, {high}{right}"
    same = (left, right) == (start, stop)
    assert correct(judge, answer, reference, "interval") == same
    assert not correct(judge, answer, f"{left}{low}, {high + 1}{right}", "interval")


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from("ABCD"),
    st.sampled_from("ABCD"),
    st.sampled_from(
        [
            *("Answer: @", "**Answer:** @", "The answer is @.", "\\boxed{@}", "<answer>@</answer>"),
            *(
                "The correct option is **@**.",
                "Option @ is correct.",
                "答案：@",
                "故选：@。",
                "**@**",
            ),
        ]
    ),
    st.sampled_from(["@", "(@)", "@."]),
    st.sampled_from(["strict", "lenient"]),
)
def test_letters_meet_only_themselves(
    given_: str, wanted: str, frame: str, form: str, profile: str
) -> None:
    """Whatever the frame and form, a letter is correct if and only if it is the reference."""
    assume(not (form == "@." and frame.startswith("Option")))
    response = frame.replace("@", form.replace("@", given_))
    other = "We look at the image.\n" + response
    fresh = Judge(Policy(profile=profile))  # type: ignore[arg-type]
    for text in (response, other):
        verdict = fresh.judge(case(text, wanted, "choice", ["w", "x", "y", "z"]))
        assert verdict.correct == (given_ == wanted), (text, verdict)
