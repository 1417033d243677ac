"""Reading what was found as mathematics, and what a sentence names where no mark does."""

import re
from typing import NamedTuple

from si.answers import units
from si.answers.choices import (
    RETRACTED,
    SENTENCE,
    Options,
    named,
    option_text,
    variants,
)
from si.answers.grammar import read
from si.answers.kinds import MATHEMATICS
from si.answers.numerals import numeral
from si.answers.prose import concluded, last_line, predicate, sentences
from si.answers.spelling import LONGEST, TooBig, Unreadable
from si.answers.text import trim, truth, unmark, words
from si.answers.tokens import Node


class Read(NamedTuple):
    """An answer read as mathematics: the part that was read and its tree, or why there is none."""

    text: str
    node: Node | None
    too_big: bool = False


_LETTER = re.compile(r"^\(?[A-J][).:]\)?\s+(?=\S)")
_LABEL = re.compile(r"^[A-Za-z][A-Za-z ]{1,40}[:：]\s*(?=\S)")
_BEHIND = re.compile(
    r"\s*(?:[,;.]\s+(?=[A-Za-z])|\s[-–—]\s|[,;，；。]\s*$|,?\s*(?=\((?:since|because|as|approx|i\.e|which)))",
    re.IGNORECASE,
)
_OR = re.compile(r"[(（]\s*or\b|\bor\s+\d", re.IGNORECASE)


def mathematics(content: str) -> Read:
    """An answer as mathematics: as it stands, or without the words around it.

    The first reading that our grammar understands counts; none looks at the reference.
    """
    big = False
    tried = []
    for each in _math_readings(content):
        tried.append(each)
        try:
            return Read(each, read(each))
        except Unreadable:
            counted = _counted(words(each))
            if counted is not None:
                return Read(each, counted)
        except TooBig:
            big = True
    return Read(trim(tried[0]) if tried else "", None, big)


def _counted(text: str) -> Node | None:
    """Number words, alone or with what they count: `seven triangles`."""
    number = numeral(text)
    if number is not None:
        return ("num", number, None)
    found = text.split()
    for count in range(min(4, len(found) - 1), 0, -1):
        number = numeral(" ".join(found[:count]))
        if number is not None:
            unit = units.read(" ".join(found[count:]), False)
            return ("qty", ("num", number, None), unit) if unit and unit != units.NONE else None
    return None


def _math_readings(content: str) -> list[str]:
    text = unmark(content).strip()
    if _OR.search(text) or RETRACTED.search(text):
        return [text]
    made = [text]
    span = _SPAN.match(text)
    if (
        span
        and text[span.end() :].strip(" .")
        and not re.search(r"[=<>$\\]|\d", text[span.end() :])
    ):
        tail = text[span.end() :].split(".")[0].split(",")[0]
        made.append(f"{span[1]}{tail}" if units.read(words(tail)) else span[1])
        made.append(span[1])
    for each in variants(text):
        made.append(each)
        made += [part for part in _BEHIND.split(each, maxsplit=1)[:1] if part]
    lettered = _LETTER.match(text) or _LABEL.match(text)
    if lettered:
        made.append(text[lettered.end() :])
    said = predicate(SENTENCE.split(text, maxsplit=1)[0])
    if said and not NEGATED.search(text):
        made += [said, *variants(said)]
    return [each for each in dict.fromkeys(one.strip() for one in made) if each][:14]


_SPAN = re.compile(
    r"\s*(\$\$[^$]+\$\$|\$[^$]+\$|\\\([^()]{1,400}?\\\)|\\\[.{1,400}?\\\])", re.DOTALL
)
NEGATED = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|incorrect|wrong)\b|n['’]t\b|不|并非|没有|错误",
    re.IGNORECASE,
)


# --- strict: a concluding sentence, or a last line that is nothing but an answer ------------

_EXPLAINED = re.compile(
    r"\A\s*([^\n]{1,200}?)\s*\n\s*[#*_]{0,6}\s?"
    r"(?:explanation|reason|reasoning|rationale|justification|解析|解释|理由)\b[*_\s]{0,4}[:：\n]",
    re.IGNORECASE,
)


def unmarked(text: str, kind: str, choices: Options | None) -> tuple[str, str] | None:
    """(what, rule) of an answer that stands without a mark; None without one.

    Where a response is one line and its explanation, that line is read.
    """
    explained = _EXPLAINED.match(text)
    text = explained[1] if explained else text
    if kind in ("choice", "choices"):
        return unmarked_choice(text, choices)
    if kind in MATHEMATICS:
        return unmarked_formula(text)
    line, before = last_line(text)
    if kind == "boolean":
        if truth(words(line)) is not None and (
            len(line.split()) <= 6 or (not before and len(sentences(text)) == 1)
        ):
            return line, "last_line"
        rest = concluded(text)
        return (rest, "conclusion") if rest and truth(rest) is not None else None
    if HEDGED.search(line):
        return None
    rest = concluded(text)
    said = predicate(rest) if rest else None
    if said and len(before) + len(sentences(text)) > 1:
        return said, "conclusion"
    return (line, "last_line") if len(line) <= LONGEST else None


def unmarked_formula(text: str) -> tuple[str, str] | None:
    """(what, rule) of a concluding sentence or last line that is an answer; None without one."""
    line, before = last_line(text)
    plain = unmark(line).strip()
    if plain and len(plain) <= 512 and not re.match(r"[-*+•]\s", plain) and not _STEP.match(plain):
        try:
            node = read(plain)
        except (Unreadable, TooBig):
            node = None
        if (
            node is not None
            and (node[0] != "rel" or node[3][0] or not before)
            and not _prose(plain)
        ):
            return plain, "last_line"
        if node is None and numeral(plain.rstrip(".")) is not None:
            return plain, "last_line"
        alone = _without_aside(plain) if node is None and not before else None
        if alone:
            return alone, "last_line"
    rest = concluded(text)
    if rest and not NEGATED.search(rest) and not _BOUNDED.search(rest):
        for each in (_value_said(rest), rest):
            made = mathematics(each) if each else None
            if made and made.node is not None and _numbers(rest) <= max(1, _numbers(made.text)):
                return made.text, "conclusion"
    return None


def _without_aside(line: str) -> str | None:
    """The value of a line that is a value and a remark in brackets: `4 animals (2 cats)`."""
    aside = _ASIDE.search(line)
    value = line[: aside.start()] if aside else ""
    if not value or re.search(r"[=:]", value) or _OR.search(line) or HEDGED.search(line):
        return None
    made = mathematics(value)
    return value if made.node is not None and made.text == value else None


# Chinese bounds, ordinals, dates and alternatives, whose number is not what is said.
_BOUNDED = re.compile(r"至少|至多|最多|大于|小于|超过|不到|少于|多于|第\s?\d|\d\s?[月号]|或")
_ASIDE = re.compile(r"\s+\([^()\n?]{1,80}\)\.?$")
_STEP = re.compile(r"(?:step\s*\d+|\d+\s*[.)])\s", re.IGNORECASE)
_NUMBER = re.compile(r"\d[\d,.]*")


def _numbers(text: str) -> int:
    return len(_NUMBER.findall(text))


def _prose(text: str) -> bool:
    return len(re.findall(r"(?<!\\)\b[a-zA-Z]{3,}\b", re.sub(r"\\[a-z]+\{[^{}]*\}", "", text))) > 3


def _value_said(sentence: str) -> str | None:
    said = predicate(sentence)
    if said:
        return said
    at = max(sentence.rfind("="), sentence.rfind("≈"))
    return sentence[at + 1 :] if at >= 0 else None


OPTION_LINE = re.compile(r"^\W{0,4}(?:option\s+)?\(?([A-J])\s?[).:]\s*\S", re.IGNORECASE)
_OPTION_WITHIN = re.compile(r"(?:^|\s)\(?([A-Ja-j])\s?[).:]\s")


def unmarked_choice(text: str, options: Options | None) -> tuple[str, str] | None:
    """(what, rule) of a last line or concluding sentence that names one option, and no more."""
    line, before = last_line(text)
    line = unmark(line).strip()
    letter = OPTION_LINE.match(line)
    if len(line) <= 300 and line:
        plain = [unmark(each).strip() for each in before[-8:]]
        echoed = letter and any(_other(each, letter[1]) for each in plain) and line not in plain
        bare = bool(plain) and len(line) < 5 and len(plain[-1]) < 5 and plain[-1].isalpha()
        echoed = echoed or (bare and plain[-1] != line)
        short = not letter or _own(line, letter, options)
        found = named(line, options)
        if len(found.letters) == 1 and not echoed and short and _only(line, options, bool(before)):
            return line, "last_line"
    rest = concluded(text)
    if rest and not NEGATED.search(rest):
        for each in (predicate(rest), rest):
            if each and len(named(each, options).letters) == 1:
                return each, "conclusion"
    return None


def _other(line: str, letter: str) -> bool:
    """Whether a line names another option in the manner of a list."""
    return any(match[1].upper() != letter.upper() for match in _OPTION_WITHIN.finditer(line))


def _own(line: str, letter: re.Match[str], options: Options | None) -> bool:
    """Whether a line that begins with a letter goes on with that option's text."""
    rest = line[letter.end() - 1 :]
    if options:
        index = ord(letter[1].upper()) - 65
        if index >= len(options):
            return False
        return (
            option_text(rest).startswith(options.folded[index])
            or options.match(rest) == letter[1].upper()
        )
    return len(rest) <= 60 and not re.search(r"\b(?:is|are|was|too|wrong|incorrect)\b", rest)


def _only(line: str, options: Options | None, several: bool) -> bool:
    """Whether a line is nothing but an option's name, alone or with its text."""
    plain = words(line)
    if re.fullmatch(r"\(?[A-Za-z]\)?[.:)]?", plain) or OPTION_LINE.match(line):
        return True
    if re.fullmatch(r"(?:option|choice)\s+\(?[A-Z]\)?(?:[.:)].{0,80})?", plain, re.IGNORECASE):
        return True
    if not several and re.match(r"[A-Z]\s+(?:because|since)\b", plain):
        return True
    named_text = bool(options and (options.match(plain) or (not several and options.truth(plain))))
    lettered = re.match(r"(?:(?:option|choice)\s+)?\(?([A-Z])\)?,?\s+(.+)", plain, re.IGNORECASE)
    own = lettered and options and options.match(lettered[2]) == lettered[1].upper()
    return named_text or bool(own)


# A sentence that denies, supposes or doubts: it names no answer, and none before it is looked at.
HEDGED = re.compile(
    r"\b(?:wrong|incorrect|impossible|mistake|doubt|suppose|supposing|assume|assuming|ruled out"
    r"|excluded"
    r"|eliminated|some (?:say|might|people)|first thought|initially thought|only if"
    r"|unlikely|used to"
    r"|half of|opposite of|different from|too (?:large|small|big|high|low|long|short)"
    r"|not the answer|let(?:['’]s| us) (?:check|see|look|count|verify|examine|find|try)"
    r"|need to (?:look|find|check|count|determine|identify|know|see)|can only guess"
    r"|(?:cannot|can['’]t|unable to|not able to) (?:see|tell|identify|determine|read|count|answer)"
    r"|(?:less|more|greater|fewer) than)\b|错误|不对|不正确|^\W*if\b(?!.*\bthen\b)",
    re.IGNORECASE,
)
