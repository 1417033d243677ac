"""What a judge is given and what it returns."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import isfinite
from typing import Any, Literal

from si.errors import DataError

KINDS = (
    "choice",
    "choices",
    "number",
    "expression",
    "set",
    "interval",
    "tuple",
    "equation",
    "boolean",
    "text",
)
REASONS = {
    "no_answer": "no answer was found in the response",
    "truncated": "the token limit cut the response before its answer was complete",
    "several_answers": "the response names several answers where one was asked for",
    "thinking_only": "there is no answer outside the thinking",
    "different": "the answer is not the reference",
    "not_comparable": "no rule can compare the answer with the reference",
    "timeout": "math-verify used up its processor time",
    "too_long": "the answer is too long, too deep or too big to compare",
}
Profile = Literal["strict", "lenient"]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a number may be from the reference; all zero (the default) means exactly equal.

    Attributes:
        absolute: largest |answer - reference|.
        relative: largest |answer - reference| / |reference|; 0.05 is ChartQA's five percent.
        decimals: compare after rounding both to so many decimal places.
    """

    absolute: float = 0.0
    relative: float = 0.0
    decimals: int | None = None

    def __post_init__(self) -> None:
        if not (isfinite(self.absolute) and isfinite(self.relative)):
            raise DataError(
                "A tolerance must be a finite number",
                f"absolute {self.absolute}, relative {self.relative}",
            )

    def __bool__(self) -> bool:
        return bool(self.absolute or self.relative or self.decimals is not None)

    def allows(self, answer: Fraction, reference: Fraction) -> bool:
        """Whether an answer is near enough to a reference."""
        off = abs(answer - reference)
        if off <= Fraction(self.absolute) or off <= Fraction(self.relative) * abs(reference):
            return True
        # Half of the last place, so that 2.345 and 2.35 agree at two decimals.
        return self.decimals is not None and off <= Fraction(1, 2 * 10**self.decimals)


@dataclass(frozen=True, slots=True)
class Policy:
    """How strictly a judge works.

    Attributes:
        profile: `strict` reads an answer only after a mark, or from a last line that is nothing
            but an answer; `lenient` also reads the last number, the last formula, or the option
            that the last sentence names.
        tolerance: for numbers.
        units: `strict`, units must agree where both have one; `ignore`, they do not matter.
        convert: compare units of one dimension by their value: 1 m = 100 cm.
        off: names of rules (see `si.answers.rules`) that are switched off.
    """

    profile: Profile = "strict"
    tolerance: Tolerance = Tolerance()
    units: Literal["strict", "ignore"] = "strict"
    convert: bool = False
    off: frozenset[str] = frozenset()


DEFAULT = Policy()


@dataclass(frozen=True, slots=True)
class Case:
    """One response and what it is judged against.

    Attributes:
        response: the whole response; any text at all.
        references: accepted answers, one or several.
        kind: one of `KINDS`; inferred from the references and choices where None.
        choices: the options' texts, in order; their letters are A, B, C ...
        finish_reason: `length` for a response that its token limit cut.
        id: the question's id, passed to custom verifiers.
        question: the question, passed to custom verifiers.
        tolerance: for this case, instead of the policy's.
    """

    response: str
    references: tuple[str, ...]
    kind: str | None = None
    choices: tuple[str, ...] = ()
    finish_reason: str = "stop"
    id: str = ""
    question: str = ""
    tolerance: Tolerance | None = None

    @property
    def reference(self) -> str:
        """The first accepted answer."""
        return self.references[0]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a response is correct, and why.

    Attributes:
        correct: the answer is one of the references.
        extracted: the answer as found, without layout; None if there is none.
        normal: its normal form: a letter, a number, a formula or folded text.
        kind: one of `KINDS`, by which it was compared.
        where: the rule that found it (`boxed`, `answer`, `last_line` ...), or `nothing`.
        rule: the rule that decided (`exact`, `number`, `choice` ...), or `none`.
        reason: one of `REASONS` when not correct, else None.
    """

    correct: bool
    extracted: str | None = None
    normal: str | None = None
    kind: str = "text"
    where: str = "nothing"
    rule: str = "none"
    reason: str | None = None

    @property
    def method(self) -> str:
        """How it was decided, in the words of the first version of the verdicts' table."""
        if self.reason == "timeout":
            return "timeout"
        return METHODS.get(self.rule, self.rule)


METHODS = {
    "exact": "exact",
    "text": "exact",
    "boolean": "exact",
    "geometry": "exact",
    "number": "number",
    "tolerance": "number",
    "percent": "number",
    "unit": "number",
    "choice": "choice",
    "choices": "choice",
    "formula": "math",
    "interval": "math",
    "set": "math",
    "tuple": "math",
    "equation": "math",
    "math_verify": "math",
    "none": "none",
}


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference as it is compared, understood once and used for all responses to a question."""

    text: str
    kind: str
    letters: tuple[str, ...] = ()
    value: Any = field(default=None, compare=False)


def case(
    response: str,
    reference: str | bool | float | Sequence[Any],
    kind: str | None = None,
    choices: Sequence[Any] | None = None,
    **rest: Any,
) -> Case:
    """A `Case` from plain values: one reference or a list of them, of any JSON type.

    Raises:
        DataError: if the kind is unknown or there is no reference.
    """
    several = (
        list(reference) if isinstance(reference, list | tuple | set | frozenset) else [reference]
    )
    texts = tuple(plain(one) for one in several if one is not None)
    if not any(text.strip() for text in texts):
        raise DataError("There is no reference to judge against", f"got {reference!r:.80}")
    if kind is not None and kind not in KINDS:
        raise DataError(f"{kind!r} is not a kind of answer", "kinds: " + ", ".join(KINDS))
    return Case(response, texts, kind, tuple(plain(one) for one in choices or ()), **rest)


def plain(value: Any) -> str:
    """A JSON value as the text that it is compared as: True is `Yes`, 12.0 is `12.0`."""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return str(value)


__all__ = [
    "DEFAULT",
    "KINDS",
    "METHODS",
    "REASONS",
    "Case",
    "Policy",
    "Reference",
    "Tolerance",
    "Verdict",
    "case",
    "plain",
    "replace",
]
