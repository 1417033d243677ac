"""Custom verifiers: functions that judge in place of the rules, recognised by their signature.

A function of one parameter gets the whole `Case` (id, question, choices, kind, response,
reference); a function of three gets the response, the reference and its kind as text.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from si.answers.case import Case, Verdict
from si.answers.kinds import infer
from si.errors import RecipeError


class Judgement(NamedTuple):
    """What a custom verifier of three strings may return for more than yes and no.

    Attributes:
        correct: the answer is the reference.
        extracted: the answer as found; None if none was.
        method: the name of what decided.
    """

    correct: bool
    extracted: str | None
    method: str


def complete(case: Case) -> str:
    """The response as far as it is complete: one that its token limit cut loses its last line."""
    cut = case.finish_reason == "length"
    return case.response.rpartition("\n")[0] if cut else case.response


def judge_custom(judge: Callable[..., object], cases: Iterable[Case]) -> list[Verdict]:
    """Verdicts of a custom verifier, which returns True, False, a `Judgement` or a `Verdict`.

    Raises:
        RecipeError: if it has another signature, raises something or returns anything else.
    """
    whole = takes_case(judge)
    verdicts = []
    for case in cases:
        kind = case.kind or infer(case.reference, case.choices)
        try:
            said = judge(case) if whole else judge(complete(case), case.reference, kind)
        except Exception as error:
            raise RecipeError(
                f"The custom verifier failed on the response of {_named(case.id)}",
                f"{type(error).__name__}: {error}",
                "Let it return False for what it cannot read.",
            ) from error
        verdicts.append(_verdict(said, case.id, kind))
    return verdicts


def _named(id_: str) -> str:
    return id_ if id_.startswith("row ") else f"query {id_}"


def _verdict(said: Any, query_id: str, kind: str) -> Verdict:
    if isinstance(said, bool):
        said = Judgement(said, None, "own")
    if isinstance(said, Judgement):
        reason = None if said.correct else "different"
        return Verdict(said.correct, said.extracted, None, kind, "custom", said.method, reason)
    if not isinstance(said, Verdict):
        raise RecipeError(
            f"The custom verifier returned {said!r} for the response of {_named(query_id)}",
            "expected True, False, a si.verify.Judgement or a si.answers.Verdict",
        )
    return said


def takes_case(judge: Callable[..., object]) -> bool:
    """Whether a custom verifier takes the whole case, by its signature.

    Raises:
        RecipeError: if it takes neither one argument nor three.
    """
    try:
        parameters = inspect.signature(judge).parameters.values()
    except (TypeError, ValueError):  # built in, without a signature
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in positional)
    if any(p.kind == p.VAR_POSITIONAL for p in parameters) or needed <= 3 <= len(positional):
        return False
    if needed <= 1 <= len(positional):
        return True
    raise RecipeError(
        f"The custom verifier {getattr(judge, '__name__', judge)} takes {needed} arguments",
        "expected one (a si.answers.Case) or three (response, reference, kind)",
    )
