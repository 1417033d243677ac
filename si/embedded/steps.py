"""Whether a response reaches its answer by correct steps, for the families whose steps can be
checked."""

import re
from collections import Counter

_TERM = re.compile(r"([+-]) (\w+) (\d{1,12}) = (-?\d{1,12})")
_ANSWER = re.compile(r"Answer: (-?\d{1,12})")


def sound(family: str, rationale: str, response: str) -> bool | None:
    """Whether every step of a response is correct, in any order that its family allows.

    `tiles`: each named tile once with its digit and sign, in any order, and correct running
    totals. `cone`: the readings and calculations of the rationale, in any order.

    Args:
        family: of the query.
        rationale: the query's worked steps.
        response: any text.

    Returns:
        None for a family whose steps cannot be checked, or a rationale that is not in its form.
    """
    check = {"tiles": _tiles, "cone": _cone}.get(family)
    if check is None or not check(rationale, rationale):
        return None
    return check(rationale, response)


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.strip().split("\n") if line.strip()]


def _tiles(rationale: str, response: str) -> bool:
    wanted, given = _terms(rationale), _terms(response)
    return given is not None and given == wanted


def _terms(text: str) -> Counter[tuple[str, str, str]] | None:
    """The terms that a solution of tiles names; None if a total or the answer is wrong."""
    *lines, last = _lines(text) or [""]
    total, terms = 0, Counter[tuple[str, str, str]]()
    for line in lines:
        term = _TERM.fullmatch(line)
        if term is None:
            return None
        sign, colour, digit, said = term.groups()
        total += int(sign + digit)
        if int(said) != total:
            return None
        terms[sign, colour, digit] += 1
    answer = _ANSWER.fullmatch(last)
    return terms if terms and answer and int(answer[1]) == total else None


def _cone(rationale: str, response: str) -> bool:
    wanted, given = _lines(rationale), _lines(response)
    ended = bool(given) and _ANSWER.fullmatch(given[-1]) is not None
    return ended and given[-1] == wanted[-1] and sorted(given) == sorted(wanted)
