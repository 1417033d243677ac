"""What the lenient profile adds: the number, formula or option that the last sentences name."""

import re

from si.answers import units
from si.answers.choices import RETRACTED, SEVERAL, Named, Options, variants
from si.answers.prose import final, predicate, sentences
from si.answers.readings import HEDGED, NEGATED, OPTION_LINE, mathematics
from si.answers.text import truth, unmark, unwrap, words

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
    listed = [match[1] for line in lines if (match := OPTION_LINE.match(unmark(line)))]
    if len(set(listed)) > 1:  # an echoed list names nothing
        kept = [line for line in lines if not OPTION_LINE.match(unmark(line))]
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
    if len(mentioned) == 1 and not NEGATED.search(text[-4000:]):
        return Named((mentioned.pop(),)), text[-200:]
    plain = not NEGATED.search(" ".join(last[-1:]))
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
    if NEGATED.search(sentence) and not _AFFIRMED.search(sentence):
        sentence = re.split(r",\s*(?:so|but|therefore|hence|thus)\b|;", sentence)[-1]
        if NEGATED.search(sentence):
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
