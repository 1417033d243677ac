"""The judge: finds a response's answer and compares it with its references."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from si.answers import lenient, readings
from si.answers.case import DEFAULT, Case, Policy, Reference, Tolerance, Verdict, case
from si.answers.choices import RETRACTED, named, options, several, variants
from si.answers.extract import Found, body, find
from si.answers.formulas import Comparer
from si.answers.kinds import MATHEMATICS, looks_formal, understand
from si.answers.prose import predicate, sentences
from si.answers.spelling import LONGEST, TooBig, Unreadable
from si.answers.text import fold, leadless, trim, truth, words

_ODD = (ArithmeticError, ValueError, TypeError, AttributeError, LookupError, RecursionError)
MEMO = 100_000  # comparisons remembered at most


class Pool(Protocol):
    """What compares formulas that our own rules cannot: `si.answers.pool.MathPool`."""

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """For each (reference, answer): equal, different, timeout or none."""
        ...


class _Said(NamedTuple):
    """What a comparison said: the verdict's parts that do not depend on where the answer stood."""

    correct: bool
    extracted: str | None
    normal: str | None
    rule: str
    reason: str | None
    ask: tuple[str, str] | None = None


@lru_cache(maxsize=16_384)
def _understood(text: str, kind: str | None, choices: tuple[str, ...]) -> Reference:
    return understand(text, kind, choices)


class Judge:
    """Decides whether responses are correct; the same for the same case, in any thread.

    Args:
        policy: profile, tolerance, units and rules.
        pool: compares formulas that our rules cannot read, if there is one; without one these
            are `not_comparable`.
        memo: remember comparisons, which repeat among the responses to a question.
    """

    def __init__(self, policy: Policy = DEFAULT, pool: Pool | None = None, *, memo: bool = True):
        self.policy = policy
        self.pool = pool
        self._memo: dict[Any, _Said] | None = {} if memo else None

    def judge(self, case: Case) -> Verdict:
        """The verdict on one response; never raises, whatever the response.

        Raises:
            DataError: if a reference cannot be understood: it is empty, or names no choice.
        """
        return self.judge_all([case])[0]

    def judge_all(self, cases: Iterable[Case]) -> list[Verdict]:
        """Verdicts on many responses, math-verify's part in parallel.

        Raises:
            DataError: as `judge`.
        """
        verdicts: list[Verdict] = []
        asked: list[tuple[int, tuple[str, str]]] = []
        for index, one in enumerate(cases):
            verdict, pairs = self._quick(one)
            verdicts.append(verdict)
            asked += [(index, pair) for pair in pairs]
        if asked and self.pool is not None:
            answers = self.pool.equal([pair for _, pair in asked])
            for (index, _), said in zip(asked, answers, strict=True):
                verdicts[index] = _settled(verdicts[index], said)
        return verdicts

    # -- one case

    def _quick(self, one: Case) -> tuple[Verdict, list[tuple[str, str]]]:
        """A verdict by our own rules, and the pairs that only math-verify may tell."""
        verdict: Verdict | None = None
        pairs: list[tuple[str, str]] = []
        found: dict[str, tuple[Found, str | None]] = {}
        for text in one.references:
            reference = _understood(text, one.kind, one.choices)
            if reference.kind not in found:
                found[reference.kind] = self._found(one, reference.kind)
            now, pair = self._against(one, reference, *found[reference.kind])
            if now.correct:
                return now, []
            pairs += [pair] if pair else []
            verdict = verdict or now
        assert verdict is not None
        return verdict, pairs

    def _found(self, one: Case, kind: str) -> tuple[Found, str | None]:
        """Where the answer stands, by marks or without, and the text that was searched."""
        cut = one.finish_reason == "length"
        off = self.policy.off
        found = find(one.response, kind, cut=cut, off=off)
        if found.text is not None or (
            found.reason != "no_answer" and found.reason != "thinking_only"
        ):
            return found, None
        text = body(one.response)
        if text is None or not text.strip() or text.endswith("?"):
            return found, None
        made = readings.unmarked(text, kind, options(one.choices))
        if made and made[1] not in off:
            return Found(made[0], made[1]), text
        return found, text

    def _against(
        self, one: Case, reference: Reference, found: Found, text: str | None
    ) -> tuple[Verdict, tuple[str, str] | None]:
        kind = reference.kind
        more = self.policy.profile == "lenient" and one.finish_reason != "length"
        if found.text is None:
            if more:
                made = self._lenient(one, reference, body(one.response) or "")
                if made:
                    return made, None
            return Verdict(
                False, None, None, kind, "nothing", "none", found.reason or "no_answer"
            ), None
        if len(found.text) > max(LONGEST, 2 * len(reference.text)):
            cut = found.text[:LONGEST]
            return Verdict(False, cut, None, kind, found.where, "none", "too_long"), None
        said = self._compared(one, reference, found)
        if more and said.reason in ("no_answer", "not_comparable") and not said.ask:
            made = self._lenient(one, reference, found.text) or (
                self._lenient(one, reference, body(one.response) or "")
                if kind in ("choice", "choices")
                else None
            )
            if made:
                return made, None
        correct, extracted, normal, rule, reason, ask = said
        return Verdict(correct, extracted, normal, kind, found.where, rule, reason), ask

    def _lenient(self, one: Case, reference: Reference, text: str) -> Verdict | None:
        """The verdict on what the last sentence names, if it names something."""
        kind = reference.kind
        if kind in ("choice", "choices"):
            if "named_option" in self.policy.off:
                return None
            found = lenient.any_choice(text, options(one.choices))
            if found is None:
                return None
            normal = ", ".join(found[0].letters)
            correct = bool(found[0].letters) and found[0].letters == reference.letters
            reason = None if correct else found[0].reason or "different"
            rule = kind if found[0].letters else "none"
            return Verdict(
                correct, trim(found[1])[:LONGEST], normal, kind, "named_option", rule, reason
            )
        if kind in MATHEMATICS:
            value = lenient.any_formula(text)
        elif kind == "boolean":
            value = lenient.any_truth(text)
        else:
            last = sentences(text)
            said = predicate(last[-1]) if last else None
            value = (said, "last_sentence") if said else None
        if value is None or value[1] in self.policy.off:
            return None
        said_ = self._compared(one, reference, Found(value[0][:LONGEST], value[1]))
        return Verdict(
            said_.correct, said_.extracted, said_.normal, kind, value[1], said_.rule, said_.reason
        )

    # -- comparing

    def _compared(self, one: Case, reference: Reference, found: Found) -> _Said:
        tolerance = one.tolerance
        key = (
            reference.text,
            reference.kind,
            one.kind,
            found.text,
            found.boxes,
            found.together,
            one.choices,
            tolerance,
        )
        memo = self._memo
        if memo is not None and key in memo:
            return memo[key]
        try:
            said = self._compare(one, reference, found, tolerance)
        except _ODD:  # an answer that our rules trip over harms no other
            shown = trim(words(found.text or "")[:LONGEST])
            said = _Said(False, shown, None, "none", "not_comparable")
        if memo is not None:
            if len(memo) >= MEMO:
                memo.clear()
            memo[key] = said
        return said

    def _compare(
        self, one: Case, reference: Reference, found: Found, tolerance: Tolerance | None
    ) -> _Said:
        text = found.text or ""
        kind = reference.kind
        if kind in ("choice", "choices"):
            if kind == "choices" and found.together > 1:
                text = ", ".join(found.boxes[-found.together :])
            return self._choice(one, reference, text)
        shown = trim(words(text))
        if not shown:
            return _Said(False, None, None, "none", "no_answer")
        if kind == "boolean":
            return _boolean(reference, text, shown)
        if kind == "text":
            return _text(reference, text, shown)
        return self._mathematics(reference, found, shown, tolerance)

    def _choice(self, one: Case, reference: Reference, text: str) -> _Said:
        known = options(one.choices)
        shown = trim(words(text)) or None
        if not reference.letters:  # an option's text, where the options are unknown
            found = named(text, None)
            said = _text(reference, text, shown or "")
            if said.correct or not found.letters:
                return said
            return said._replace(reason="not_comparable", rule="none")
        found = several(text, known) if reference.kind == "choices" else named(text, known)
        if not found.letters:
            reason = found.reason or "no_answer"
            return _Said(False, shown, None, "none", reason)
        normal = ", ".join(found.letters)
        correct = found.letters == reference.letters
        exact = shown is not None and shown.casefold() == trim(words(reference.text)).casefold()
        rule = "exact" if correct and exact else reference.kind
        return _Said(correct, shown, normal, rule, None if correct else "different")

    def _mathematics(
        self, reference: Reference, found: Found, shown: str, tolerance: Tolerance | None
    ) -> _Said:
        text = _joined(reference, found)
        if text is None:
            return _Said(False, shown, None, "none", "several_answers")
        if text is not found.text:
            shown = trim(words(text))
        if _OPEN_END.search(text) and not _OPEN_END.search(reference.text):
            return _Said(False, shown, None, "none", "not_comparable")
        if _squash(shown) == _squash(trim(words(reference.text))):
            return _Said(True, shown, shown, "exact", None)
        made = readings.mathematics(text)
        if made.too_big:
            return _Said(False, shown, None, "none", "too_long")
        if made.node is None or reference.value is None:
            return _unread(reference, text, made, shown)
        comparer = Comparer(self.policy, tolerance)
        normal = _normal(made)
        alike = made.node[1] if made.node[0] == "list" and made.node[2] == "or" else ()
        try:
            correct = comparer.same(reference.value, made.node) or (
                reference.value[0] != "list"
                and bool(alike)
                and all(comparer.same(reference.value, each) for each in alike)
            )
        except Unreadable:
            return _unread(reference, text, made, shown)
        except TooBig:
            return _Said(False, shown, None, "none", "too_long")
        reason = None
        if not correct:
            many = made.node[0] == "list" and reference.value[0] not in ("list", "set", "group")
            reason = "several_answers" if many else "different"
        return _Said(correct, shown, normal, comparer.rule, reason)


def _joined(reference: Reference, found: Found) -> str | None:
    """What was found; several boxes joined if the reference has several values; None if boxes in
    one row name several values for a reference of one."""
    text = found.text or ""
    if found.where != "boxed" or len(found.boxes) < 2:
        return text
    node = reference.value
    size = len(node[1]) if node and node[0] in ("list", "set") else 0
    size = len(node[3]) if node and node[0] == "group" else size
    if size > 1 and "," not in text:
        row = found.together if found.together > 1 else len(found.boxes)
        if row == size:
            return ", ".join(found.boxes[-size:])
        return text
    if size == 0 and found.together > 1:
        row_ = {_squash(words(box)) for box in found.boxes[-found.together :]}
        return text if len(row_) == 1 else None
    return text


_OPEN_END = re.compile(r",\s*(?:\.{2,}|…|\\[lc]?dots)")


def _squash(text: str) -> str:
    return re.sub(r"\s+", "", re.sub(r"(?<=\d)\s+(?=\d)", "_", text))


def _normal(made: readings.Read) -> str:
    node = made.node
    inner = node[1] if node and node[0] == "qty" else node
    if inner and inner[0] == "num":
        behind = f" {node[2]}" if node and node[0] == "qty" else ""
        return f"{inner[1]}{behind}"
    return _squash(made.text)


_BOTH = re.compile(
    r"\W*(?:yes|true)\W+(?:or\s+|no wait\W+|wait\W+)?(?:no|false)\W*"
    r"|\W*(?:no|false)\W+(?:or\s+)?(?:yes|true)\W*",
    re.IGNORECASE,
)


def _boolean(reference: Reference, text: str, shown: str) -> _Said:
    if _BOTH.fullmatch(words(text)) or RETRACTED.search(words(text)):
        return _Said(False, shown, None, "none", "several_answers")
    said = truth(words(leadless(text)))
    if said is None:
        return _Said(False, shown, None, "none", "not_comparable")
    correct = said == reference.value
    return _Said(
        correct, shown, "yes" if said else "no", "boolean", None if correct else "different"
    )


def _text(reference: Reference, text: str, shown: str) -> _Said:
    from si.answers.names import geometry, plain_symbols, spoken, symbols

    wanted = reference.text
    if shown == trim(words(wanted)):
        return _Said(True, shown, shown, "exact", None)
    drawn = geometry(wanted)
    if drawn:
        given = geometry(text)
        correct = given == drawn
        return _Said(correct, shown, given, "geometry", None if correct else "different")
    case_ = symbols(wanted)
    text, wanted, shown = spoken(text, wanted), spoken(wanted, wanted), spoken(shown, wanted)
    if case_:
        shown, wanted = plain_symbols(shown), plain_symbols(words(wanted))
        text = plain_symbols(words(text))
        if " " not in wanted and all(len(piece) < 4 for piece in shown.split()):
            shown = shown.replace(" ", "")
            text = shown
    folded = fold(wanted, case_)
    readings_ = variants(words(text))
    if RETRACTED.search(words(text)):
        readings_ = [words(text)]
    said = predicate(words(text)) if "used to" not in text else None
    if said and len(words(text)) < 200 and not re.search(r"\bnot\b|n't", text):
        readings_ += variants(said)
    lettered = re.match(r"^\(?[A-J][).:]\)?\s+", shown)
    if lettered:
        readings_.append(shown[lettered.end() :])
    for each in readings_:
        if each and fold(each, case_) == folded:
            same = fold(shown, case_) == folded
            return _Said(True, trim(each), folded, "exact" if same else "text", None)
    return _Said(False, shown, fold(shown, case_)[:LONGEST], "text", "different")


def _unread(reference: Reference, text: str, made: readings.Read, shown: str) -> _Said:
    """What our grammar cannot read: asked of math-verify if it looks like mathematics."""
    if not looks_formal(text):
        if made.node is None and reference.value is not None:
            return _Said(False, shown, None, "none", "not_comparable")
        return _text(reference, text, shown)
    from si.answers.pool import bounded, formula

    pair = formula(reference.text), formula(text)
    if not all(map(bounded, pair)):
        return _Said(False, shown, None, "none", "too_long")
    return _Said(False, shown, _squash(shown), "none", "not_comparable", pair)


def _settled(verdict: Verdict, said: str) -> Verdict:
    if verdict.correct:
        return verdict
    reasons = {"equal": None, "different": "different", "timeout": "timeout"}
    reason = reasons.get(said, "not_comparable")
    rule = "math_verify" if said in ("equal", "different") else "none"
    return Verdict(
        said == "equal",
        verdict.extracted,
        verdict.normal,
        verdict.kind,
        verdict.where,
        rule,
        reason,
    )


def judge(
    response: str,
    reference: Any,
    kind: str | None = None,
    choices: Sequence[Any] | None = None,
    *,
    profile: Any = "strict",
    tolerance: Tolerance | None = None,
    pool: Pool | None = None,
    finish_reason: str = "stop",
) -> Verdict:
    """The verdict on one response against one reference, or a list of accepted ones.

    Args:
        kind: one of `si.answers.KINDS`; inferred if None.
        choices: the options' texts, in order.
        profile: `strict` or `lenient`.
        pool: a `MathPool`, asked about formulas that our rules cannot read.

    Raises:
        DataError: if the reference or the kind cannot be understood.
    """
    made = case(
        response, reference, kind, choices, finish_reason=finish_reason, tolerance=tolerance
    )
    return Judge(Policy(profile=profile), pool).judge(made)
