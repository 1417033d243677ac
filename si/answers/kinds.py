"""Kinds of answers, inferred from a reference the same way in all places."""

import re

from si.answers.case import Reference
from si.answers.choices import named, options, several
from si.answers.extract import find
from si.answers.grammar import read_once
from si.answers.numerals import numeral
from si.answers.spelling import TooBig, Unreadable
from si.answers.text import FALSE, TRUE, clean, fold, trim, truth, words
from si.answers.tokens import Node
from si.answers.values import variables
from si.errors import DataError

MATHEMATICS = ("number", "expression", "set", "interval", "tuple", "equation")
_LETTER = re.compile(r"\(?[A-J]\)?[.:]?|\([a-j]\)")
_LETTERS = re.compile(r"\(?[A-J]\)?(?:\s*(?:,|;|&|and|和|、)\s*\(?[A-J]\)?)+")


def bare(reference: str) -> str:
    r"""The answer that a reference names: `#### 42`, `\boxed{42}`, `<answer>42</answer>`, a worked
    solution that ends in one of these, or the reference itself."""
    text = clean(reference).strip()
    found = find(text, "choice")
    if found.where in ("tag", "boxed", "hash", "glm_box", "json") and found.text:
        if found.where == "boxed" and found.together > 1:
            return ", ".join(found.boxes[-found.together :])
        return found.text
    if found.where in ("answer", "chinese", "option") and found.text:
        return found.text
    if "####" in text:
        last = text.rpartition("####")[2].strip()
        return last if last and "\n" not in last else text
    return text


def infer(reference: str, choices: tuple[str, ...] = ()) -> str:
    """The kind of a reference: one of `si.answers.case.KINDS`.

    With choices it is `choice`, or `choices` where it names several; a letter from A to J alone
    is a choice without them too. Numbers may have a unit. What is not mathematics is text.
    """
    text = bare(reference)
    if choices:
        known = options(choices)
        if named(text, known).letters:
            return "choice"
        if len(several(text, known).letters) > 1:
            return "choices"
    plain = trim(words(text))
    if _LETTER.fullmatch(plain):
        return "choice"
    if _LETTERS.fullmatch(plain):
        return "choices"
    if truth(plain) is not None and fold(plain) in TRUE | FALSE:
        return "boolean"
    if textual(text):
        return "text"
    try:
        node = read_once(text)
    except Unreadable:
        return "expression" if looks_formal(text) else "text"
    except TooBig:
        return "expression"
    return kind_of(node)


_WORD = re.compile(r"(?<![\\a-zA-Z])[A-Za-z]{2,}")
_SYMBOLS = re.compile(
    r"(?:[A-Z][a-z]?_?\{?\d*\}?)+[\d^+\-{}]*|[A-Z]+\d[\w.-]*|\d+[A-Z]\d+\w*|[A-Za-z]+-?\d+[A-Za-z]+\w*"
)
_TEXTUAL = re.compile(
    r"\d{1,2}:\d{2}(?::\d{2})?\s*(?:[aApP]\.?[mM]\.?)?|\d+(?:\.\d+)?(?:\s*:\s*\d+(?:\.\d+)?)+|\d+\s?[-–—]\s?\d+|\d+(?:\s*[-–/.]\s*\d+){2,}"
)
_GEOMETRY = re.compile(
    r"\\(?:triangle|angle|overline|parallel|perp|cong|sim|overrightarrow|overleftrightarrow|odot|widehat|measuredangle)|[△∠∥⊥≅⊙∽]"
)
_MATH_WORDS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "log",
        "ln",
        "exp",
        "sqrt",
        "pi",
        "arcsin",
        "arccos",
        "arctan",
        "max",
        "min",
        "gcd",
        "lcm",
        "and",
        "or",
        "infinity",
        "inf",
    ]
)


def textual(text: str) -> bool:
    """Whether a reference is text although it has digits or symbols: times, ranges, names."""
    plain = trim(words(text))
    if _TEXTUAL.fullmatch(plain.replace(" to ", "-")):
        return True
    if _GEOMETRY.search(text) and "=" not in text:
        return True
    if re.fullmatch(r"[A-Z]{2,6}", plain) or re.fullmatch(r"\d{3,4}s", plain):
        return True
    if _SYMBOLS.fullmatch(plain.replace(" ", "")) and not re.fullmatch(
        r"[A-Za-z]|\d.*[a-z]", plain
    ):
        return (len(plain) > 1 and any(char.isdigit() for char in plain)) or bool(
            re.search(r"[A-Z][a-z]", plain)
        )
    return False


def looks_formal(text: str) -> bool:
    """Whether a text that our grammar cannot read is still mathematics, not prose."""
    if not re.search(r"\\[a-zA-Z]|[\^=<>]|\d\s*[-+*/]\s*\d", text):
        return False
    bare_ = re.sub(r"\\(?:text|mathrm|textbf|mbox)\s*\{[^{}]*\}", " ", text)
    prose = [
        word for word in _WORD.findall(bare_) if word.lower() not in _MATH_WORDS and len(word) > 3
    ]
    inside = re.findall(r"\\(?:begin|end)\{([a-z]+)\*?\}", text)
    prose = [word for word in prose if word not in inside and not re.search(rf"\\{word}", text)]
    return not prose


def kind_of(node: Node) -> str:
    """The kind of what was read as mathematics."""
    kind = node[0]
    if kind == "qty":
        return "number" if not variables(node[1]) and _simple(node[1]) else "expression"
    if kind in ("num", "neg", "base", "div") and _simple(node):
        return "number"
    if kind in ("list", "set"):
        return "set"
    if kind in ("union", "minus"):
        return "interval"
    if kind == "group":
        open_ = node[1] == "[" or node[2] == "]" or any(_infinite(item) for item in node[3])
        return "interval" if open_ and len(node[3]) == 2 else "tuple"
    if kind == "rel":
        if set(node[2]) & {"<", ">", "<=", ">=", "!=", "in"}:
            return "interval"
        return "equation"
    return "expression"


def _infinite(node: Node) -> bool:
    return ("const", "inf") in (node, node[1] if node[0] == "neg" else None)


def _simple(node: Node) -> bool:
    """A plain number: digits, a sign, a fraction of these, a power of ten."""
    if node[0] == "neg":
        return _simple(node[1])
    if node[0] in ("div", "mul"):
        return _simple(node[1]) and _simple(node[2])
    if node[0] == "pow":
        return bool(node[1][0] == "num" and node[1][1] == 10 and _simple(node[2]))
    return bool(node[0] in ("num", "base"))


def understand(reference: str, kind: str | None, choices: tuple[str, ...] = ()) -> Reference:
    """A reference as it is compared.

    Args:
        kind: its kind if it is known; `text` and `number` stand for all that they once covered,
            so that formulas in older data sets stay formulas.

    Raises:
        DataError: if a reference of a choice names no option, or it is empty.
    """
    text = bare(reference)
    if not text.strip():
        raise DataError("A reference is empty", f"reference {reference!r:.80}")
    inferred = infer(reference, choices)
    known = options(choices)
    if kind in (None, "text", "number", "expression") or (kind != inferred and kind in MATHEMATICS):
        used = (
            inferred
            if kind != "number" or inferred not in ("text", "expression")
            else _numeric(text, inferred)
        )
    else:
        used = kind
    if kind in ("expression", *MATHEMATICS) and used in ("choice", "choices") and not choices:
        used = kind
    if used == "boolean" and truth(trim(words(text))) is None:
        used = inferred
    letters: tuple[str, ...] = ()
    if used in ("choice", "choices"):
        found = several(text, known) if used == "choices" else named(text, known)
        letters = found.letters
        if known and not letters:
            raise DataError(
                f"The reference {text[:60]!r} names none of the {len(known)} choices",
                "choices: " + ", ".join(choices)[:200],
                "A reference is an option's letter or its text.",
            )
    if used == "boolean":
        return Reference(text, used, value=truth(trim(words(text))))
    node: Node | None = None
    if used in MATHEMATICS:
        try:
            node = read_once(f"{text} " if kind != "number" else _upright(text))
        except (Unreadable, TooBig):
            number = numeral(text)
            node = ("num", number, None) if number is not None else None
    return Reference(text, used, letters, node)


def _numeric(text: str, inferred: str) -> str:
    """The kind of a reference that the data call a number: `12m` is 12 metres there."""
    try:
        node = read_once(_upright(text))
    except (Unreadable, TooBig):
        return "number" if numeral(text) is not None else inferred
    return "number" if not variables(node) and kind_of(node) == "number" else inferred


def _upright(text: str) -> str:
    return re.sub(r"(?<=\d)\s?([msghKNJWVACFTLl])(?=$|[\s/^])", r" \\text{ \1}", text)
