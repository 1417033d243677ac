"""Reading what was found as mathematics, and what a sentence names where no mark does."""

import re
from typing import NamedTuple

from si.answers import units
from si.answers.choices import (
    NOTHING,
    RETRACTED,
    SENTENCE,
    SEVERAL,
    Named,
    Options,
    named,
    variants,
)
from si.answers.grammar import read
from si.answers.numerals import numeral
from si.answers.prose import concluded, final, last_line, predicate, sentences
from si.answers.spelling import TooBig, Unreadable
from si.answers.text import fold, trim, truth, unmark, unwrap, words
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
    if said and not _NEGATED.search(text):
        made += [said, *variants(said)]
    return [each for each in dict.fromkeys(one.strip() for one in made) if each][:14]


_SPAN = re.compile(
    r"\s*(\$\$[^$]+\$\$|\$[^$]+\$|\\\([^()]{1,400}?\\\)|\\\[.{1,400}?\\\])", re.DOTALL
)
_NEGATED = re.compile(
    r"\b(?:not|no|n't|never|neither|nor|cannot|isn['’]t|aren['’]t|incorrect|wrong)\b", re.IGNORECASE
)


# --- strict: a concluding sentence, or a last line that is nothing but an answer ------------


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
    rest = concluded(text)
    if rest and not _NEGATED.search(rest):
        for each in (_value_said(rest), rest):
            made = mathematics(each) if each else None
            if made and made.node is not None and _numbers(rest) <= max(1, _numbers(made.text)):
                return made.text, "conclusion"
    return None


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


_OPTION_LINE = re.compile(r"^\W{0,4}(?:option\s+)?\(?([A-J])\s?[).:]\s*\S", re.IGNORECASE)
_OPTION_WITHIN = re.compile(r"(?:^|\s)\(?([A-J])\s?[).:]\s")


def unmarked_choice(text: str, options: Options | None) -> tuple[str, str] | None:
    """(what, rule) of a last line or concluding sentence that names one option, and no more."""
    line, before = last_line(text)
    line = unmark(line).strip()
    letter = _OPTION_LINE.match(line)
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
    if rest and not _NEGATED.search(rest):
        for each in (predicate(rest), rest):
            if each and len(named(each, options).letters) == 1:
                return each, "conclusion"
    return None


def _other(line: str, letter: str) -> bool:
    """Whether a line names another option in the manner of a list."""
    return any(match[1] != letter for match in _OPTION_WITHIN.finditer(line))


def _own(line: str, letter: re.Match[str], options: Options | None) -> bool:
    """Whether a line that begins with a letter goes on with that option's text."""
    rest = line[letter.end() - 1 :]
    if options:
        index = ord(letter[1]) - 65
        if index >= len(options):
            return False
        return fold(rest).startswith(options.folded[index]) or options.match(rest) == letter[1]
    return len(rest) <= 60 and not re.search(r"\b(?:is|are|was|too|wrong|incorrect)\b", rest)


def _only(line: str, options: Options | None, several: bool) -> bool:
    """Whether a line is nothing but an option's name, alone or with its text."""
    plain = words(line)
    if re.fullmatch(r"\(?[A-Za-z]\)?[.:)]?", plain) or _OPTION_LINE.match(line):
        return True
    if re.fullmatch(r"(?:option|choice)\s+\(?[A-Z]\)?(?:[.:)].{0,80})?", plain, re.IGNORECASE):
        return True
    if not several and re.match(r"[A-Z]\s+(?:because|since)\b", plain):
        return True
    named_text = bool(options and (options.match(plain) or (not several and options.truth(plain))))
    lettered = re.match(r"\(?([A-Z])\)?\s+(.+)", plain)
    return named_text or bool(options and lettered and options.match(lettered[2]) == lettered[1])


# --- lenient --------------------------------------------------------------------------------

_TEN = (
    "zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety one"
)
_VALUE = re.compile(
    r"[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]|(?<![A-Za-z0-9_.])(?:\\?[$€£¥]\s?)?[-−+]?(?:\d[\d,]*\d|\d)(?:\.\d+)?(?:\s?/\s?\d+(?:\.\d+)?|\s*[×x]\s*10\^?\{?-?\d+\}?|[eE][+-]?\d+)?"
    rf"(?:\s?%|\s?°)?|(?<![\w.])-?\.\d+|\b(?:{'|'.join(_TEN.split())})\b(?![-\s]of\b)",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_ITEM = re.compile(r"(?m)^\s*(?:\d{1,2}[.)]|step\s*\d+\s*[:.])\s+", re.IGNORECASE)
_RESULT = re.compile(r"(?:=|≈|\\approx|\\equiv|\bequals?\b|\bequal to\b)\s*", re.IGNORECASE)


# A sentence that denies, supposes or doubts: it names no answer, and none before it is looked at.
HEDGED = re.compile(
    r"\b(?:wrong|incorrect|impossible|mistake|doubt|suppose|supposing|assume|assuming|ruled out"
    r"|excluded"
    r"|eliminated|some (?:say|might|people)|first thought|initially thought|only if"
    r"|unlikely|used to"
    r"|half of|opposite of|different from|too (?:large|small|big|high|low|long|short)"
    r"|not the answer"
    r"|(?:less|more|greater|fewer) than)\b|^\W*if\b(?!.*\bthen\b)",
    re.IGNORECASE,
)
_COMPARED = re.compile(
    r"\s+(?:instead of|rather than|compared (?:to|with)|as opposed to)\b[^.\n]*", re.IGNORECASE
)
_QUESTION = re.compile(r"[^.!?\n]*\?(?=\s|$)")


def asked(text: str) -> str:
    """A text without the questions in it, which answer nothing."""
    return _QUESTION.sub("", text) if "?" in text else text


_NONE = re.compile(
    r"\W*(?:(?:therefore|thus|so|hence),?\s+)?there (?:are|is) (?:no|none)\b", re.IGNORECASE
)


def any_formula(text: str) -> tuple[str, str] | None:
    """(what, rule): the last sentence's number or formula; None if no sentence has one."""
    if RETRACTED.search(text[-200:]):
        return None
    for sentence in reversed(sentences(_COMPARED.sub("", asked(_ITEM.sub("", text))))):
        if HEDGED.search(sentence):
            return None
        formula = _last_formula(sentence)
        if formula:
            return formula, "last_formula"
        value = _last_number(sentence) or ("0" if _NONE.match(sentence) else None)
        if value:
            return value, "last_number"
    return None


def _last_formula(sentence: str) -> str | None:
    spans = list(_FORMULA.finditer(sentence))
    for span in reversed(spans):
        inner = next(part for part in span.groups() if part)
        if _DENIED.search(sentence[: span.start()]):
            continue
        tail = unmark(sentence[span.end() :])
        made = mathematics(inner)
        if made.node is None or made.node[0] == "var":
            continue
        if _VALUE.search(tail) and re.search(r"\b(?:is|are|equals)\b", tail):
            return None
        behind = re.match(r"\s*([^\W\d_]+(?:[/^]\w+)?)", tail)
        known = behind and units.read(behind[1], True)
        return f"{inner} \\text{{ {behind[1]}}}" if behind and known and known.powers else inner
    return None


# What stands right before a number that is a bound, or is denied.
_DENIED = re.compile(
    r"(?:\bnot|n['’]t|\b(?:more|less|fewer|greater|larger|smaller|higher|lower) than"
    r"|\bat (?:least|most)|\bbetween|\bover|\bunder|\bup to|\bnearly|\balmost|\bexceeds?|\bwithin"
    r"|\bhalf of"
    r"|\bopposite of|\bdifferent from|\b(?:instead|rather) (?:of|than)"
    r"|\btwice|\bused to be|\b(?:can(?:not|['’]t)|unlikely to) be)"
    r"\s+(?:be\s+|the\s+|about\s+|equal to\s+|\W){0,3}$",
    re.IGNORECASE,
)
_ANOTHER = re.compile(r"\s*(?:or|to|and)\s+\d|\s*[-–]\s*\d", re.IGNORECASE)
_EITHER = re.compile(
    r"[,(]\s*or\s+(?:about\s+|approximately\s+|simply\s+)?(?=[-$\d])", re.IGNORECASE
)


def _last_number(sentence: str) -> str | None:
    """The number that a sentence comes to; None where it is denied, a bound or one of two."""
    return next((value for value in (_number_of(sentence),) if value), None)


def _number_of(sentence: str) -> str | None:
    bold = [part for part in _BOLD.findall(sentence) if _VALUE.search(part)]
    plain = unwrap(unmark(sentence))
    other = final(_EITHER, plain)
    again = _VALUE.match(plain, other.end()) if other else None
    if again:
        return _with_unit(plain, again)
    area = bold[0] if len(bold) == 1 else plain
    last = final(_RESULT, area)
    value = _VALUE.search(area, last.end()) if last else None
    if last and value and value.start() - last.end() < 12:
        return _with_unit(area, value)
    if not bold:
        if re.search(r"\b(?:not|n['’]t)\s+\W*$", plain):
            return None
        said = predicate(plain)
        value = _VALUE.search(said) if said else None
        if said and value:
            start = len(plain) - len(said)
            before = plain[:start] if plain.endswith(said) else ""
            if _DENIED.search(before + said[: value.start()]):
                return None
            return _with_unit(said, value)
    values = list(_VALUE.finditer(area))
    digits = [match for match in values if any(char.isdigit() for char in match[0])] or values
    if (
        digits
        and digits[-1][0].lower() == "one"
        and len(digits) == 1
        and re.search(r"\bone of\b|\bthe one\b|\bone (?:is|that)\b|\bno one\b", area)
    ):
        return None
    return _with_unit(area, digits[-1]) if digits else None


def _with_unit(text: str, value: re.Match[str]) -> str | None:
    if _DENIED.search(text[: value.start()]) or _ANOTHER.match(text, value.end()):
        return None
    scale = re.match(
        r"\s+(?:thousand|million|billion|trillion|hundred|dozen)\b", text[value.end() :]
    )
    if scale:
        return value[0] + scale[0]
    behind = re.match(r"[\s-]?([^\W\d_]+(?:[/^]\w+)?|°[CF]?|%)", text[value.end() :])
    known = behind and units.read(behind[1], False)
    return value[0] + (" " + behind[1] if behind and known and known.powers else "")


_SO = re.compile(r",\s*(?:so|therefore|hence|thus)\s+(?=[A-Za-z])")


def any_choice(text: str, options: Options | None) -> tuple[Named, str] | None:
    """(what, sentence): the option that the last sentences name, by letter, text or number."""
    text = asked(text)
    lines = [line for line in text.split("\n") if line.strip()]
    listed = [match[1] for line in lines if (match := _OPTION_LINE.match(unmark(line)))]
    if len(set(listed)) > 1:  # an echoed list names nothing
        kept = [line for line in lines if not _OPTION_LINE.match(unmark(line))]
        text = "\n".join(kept)
    last = sentences(text)
    for sentence in reversed(last[-3:]):
        *_, clause = _SO.split(sentence)
        if HEDGED.search(clause) and not _AFFIRMED.search(clause):
            return None
        whole = () if HEDGED.search(sentence) and clause != sentence else (sentence,)
        for part in (*whole, clause, _COMPARED.sub("", variants(clause)[-1])):
            found = _by_sentence(part, options)
            if found:
                return found, sentence
    if options is None:
        return None
    first = _by_truth(text, options)
    if first:
        return first, text[:80]
    mentioned = {letter for _, letter in options.mentioned(text[-4000:])}
    if len(mentioned) == 1 and not _NEGATED.search(text[-4000:]):
        return Named((mentioned.pop(),)), text[-200:]
    plain = not _NEGATED.search(" ".join(last[-1:]))
    value = any_formula(text) if plain and any(options.nodes) else None
    letter = options.match(value[0]) if value else None
    return (Named((letter,)), value[0]) if letter and value else None


_SET_OFF = re.compile(
    r"[(（]\s*([A-Z])\s*[)）]|\b(?:option|choice|answer|letter)\s+\W{0,3}([A-Z])(?![A-Za-z'’])|(?:^|\s)\*\*\(?([A-Z])[).:*]|^\s*([A-Z])[).:]\s"
)


_ALONE = re.compile(
    r"\W*(?:the\s+)?(?:picture|image|figure|shape|one|option|choice|letter|number)?\s*\W*([A-Z])\W*"
)


def _by_sentence(sentence: str, options: Options | None) -> Named | None:
    if _NEGATED.search(sentence) and not _AFFIRMED.search(sentence):
        sentence = re.split(r",\s*(?:so|but|therefore|hence|thus)\b|;", sentence)[-1]
        if _NEGATED.search(sentence):
            return None
    letters = {next(p for p in match.groups() if p) for match in _SET_OFF.finditer(sentence)}
    if options:
        letters &= set(options.letters)
    if len(letters) == 1:
        return Named((letters.pop(),))
    if len(letters) > 1 or options is None:
        said = predicate(words(sentence))
        alone = _ALONE.fullmatch(said) if said and len(letters) < 2 else None
        return SEVERAL if len(letters) > 1 else Named((alone[1],)) if alone else None
    if RETRACTED.search(sentence):
        return None
    found = options.mentioned(sentence)
    if len({letter for _, letter in found}) == 1:
        return Named((found[0][1],))
    said = predicate(words(sentence))
    alone = _ALONE.fullmatch(said) if said else None
    if alone and alone[1] in options.letters:
        return Named((alone[1],))
    within = options.mentioned(said) if said else []
    if len({letter for _, letter in within}) == 1:
        return Named((within[0][1],))
    return None


_AFFIRMED = re.compile(r"\b(?:correct|right|best)\s+(?:answer|option|choice)\b", re.IGNORECASE)


def _by_truth(text: str, options: Options) -> Named | None:
    answers = {
        value: i for i, option in enumerate(options.texts) if (value := truth(option)) is not None
    }
    if len(answers) != 2:
        return None
    said = truth(text)
    return None if said is None else Named((options.letters[answers[said]],))


__all__ = [
    "NOTHING",
    "Read",
    "any_choice",
    "any_formula",
    "mathematics",
    "unmarked_choice",
    "unmarked_formula",
]
