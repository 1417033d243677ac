"""What the lenient profile adds: the number, formula or option that the last sentences name."""

import re

from si.answers import units
from si.answers.choices import RETRACTED, SEVERAL, Named, Options, variants
from si.answers.numerals import PARTS
from si.answers.prose import final, predicate, sentences
from si.answers.readings import HEDGED, NEGATED, OPTION_LINE, mathematics
from si.answers.text import truth, unmark, unwrap, words

_TEN = (
    "zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety one"
)
_VALUE = re.compile(
    r"[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]|(?<![A-Za-z0-9_.])(?<!\d:)(?!\d{1,2}:\d)(?:\\?[$€£¥]\s?)?[-−+]?(?:\d[\d,]*\d|\d)(?:\.\d+)?(?:\s?/\s?\d+(?:\.\d+)?|\s*[×x]\s*10\^?\{?-?\d+\}?|[eE][+-]?\d+)?"
    r"(?:\s?%|\s?°)?|(?<![\w.])-?\.\d+"
    rf"|\b(?:an?|{'|'.join(_TEN.split())})[-\s](?:{'|'.join(PARTS)})\b"
    rf"|\b(?:{'|'.join(_TEN.split())})\b"
    rf"(?![-\s](?:of(?! the| these| those| all)|{'|'.join(PARTS)})\b)",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_ITEM = re.compile(r"(?m)^\s*(?:\d{1,2}[.)]|step\s*\d+\s*[:.])\s+", re.IGNORECASE)
_RESULT = re.compile(
    r"(?:=|≈|\\approx|\\equiv|\bequals?\b|\bequal to\b)\s*"
    r"|(?:,|\band)\s*(?:so|making|giving|totall?ing|leaving|for a total of|bringing)\s+"
    r"(?:there (?:are|is) |it is |it's |that is |that's |(?:a|the) total (?:of|is) )?(?=\W?\d)",
    re.IGNORECASE,
)


_COMPARED = re.compile(
    r"\s+(?:instead of|rather than|compared (?:to|with)|as opposed to)\b[^.\n]*"
    r"|,\s+(?:and\s+)?not\s+[^.,;\n]*",
    re.IGNORECASE,
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
        sentence = _LEAD.sub("", sentence) if _VALUE.search(_LEAD.sub("", sentence)) else sentence
        if HEDGED.search(_BRACKETS.sub("", sentence)):
            *_, sentence = _SO.split(sentence)
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
    r"(?:(?<![-=<>])[<>≤≥]=?\s*$|\\[gl]eq?\s*$|\d\s?[-–—]\s?$|\d\s?[a-zA-Z°%]{0,3}\s(?:to|or)\s+$"
    r"|\bbetween\s+\S+(?:\s[a-z]{1,3})?\s+and\s+$"
    r"|(?:不(?:是|为|等于)?|大于|小于|至少|至多|超过|不到|少于|多于|接近|第)有?\s*$"
    r"|\b(?:step|figure|fig\.|question|example|page|table|equation|chapter)\s+$"
    r"|(?:\bnot|n['’]t|\b(?:more|less|fewer|greater|larger|smaller|higher|lower) than"
    r"|\bat (?:least|most)|\bbetween|\bover|\bunder|\bup to|\bnearly|\balmost|\bexceeds?|\bwithin"
    r"|\bhalf of"
    r"|\b(?:might|may|could) be|\bas of"
    r"|\bopposite of|\bdifferent from|\b(?:instead|rather) (?:of|than)"
    r"|\btwice|\bused to be|\b(?:can(?:not|['’]t)|unlikely to) be)"
    r"\s+(?:be\s+|the\s+|about\s+|equal to\s+|\W){0,3}$)",
    re.IGNORECASE,
)
_ANOTHER = re.compile(
    r"\s*(?:or|to|and)\s+\d|\s*[-–]\s*\d|\s*[^\W\d_]?\s*(?:或|到|至)\s*\d|\s?[月号]",
    re.IGNORECASE,
)
_EITHER = re.compile(
    r"[,(]\s*or\s+(?:about\s+|approximately\s+|simply\s+)?(?=[-$\d])", re.IGNORECASE
)


def _last_number(sentence: str) -> str | None:
    """The number that a sentence comes to; None where it is denied, a bound or one of two."""
    bold = [part for part in _BOLD.findall(sentence) if _VALUE.search(part)]
    plain = unwrap(unmark(sentence))
    *_, clause = _SO.split(plain)
    plain = clause if _VALUE.search(clause) else plain
    other = final(_EITHER, plain)
    again = _VALUE.match(plain, other.end()) if other else None
    if again:
        return _with_unit(plain, again)
    plain = _reasonless(plain)
    counted = None if bold else _counted(plain)
    if counted:
        return _with_unit(plain, counted)
    area = bold[0] if len(bold) == 1 else plain
    last = final(_RESULT, area)
    value = _VALUE.search(area, last.end()) if last else None
    if last and value and value.start() - last.end() < 12:
        return _with_unit(area, value)
    if not bold:
        there = _THERE.search(plain)
        if there and _SEVERAL.match(plain, there.end()):
            return None
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
        and re.search(r"\bone of\b|\bthe one\b|\bone (?:is|that)\b|\bno one\b", area, re.IGNORECASE)
    ):
        return None
    stated = [
        each
        for each in digits
        if not (_ASIDE.search(area[: each.start()]) or _YEAR.search(area[: each.end()]))
    ] or digits
    return _with_unit(area, stated[-1]) if stated else None


# A reason or aside behind what a sentence says, with numbers of its own.
_REASON = re.compile(
    r",?\s+(?:because|since|given that|according to|based on|as shown)\b"
    r"|,\s+(?:as|who|whose|where|with|up|down)\b"
    r"|,\s+which\b(?!\s(?:leaves|gives|makes|equals|means|results|brings|comes"
    r"|is equal"
    r"|is (?:about |approximately )?\W?\d(?![\d.,]*\s(?:more|less|fewer|times|higher|lower))))"
    r"|,\s+(?:\w+\s+)?of\s+(?:which|them)\b",
    re.IGNORECASE,
)


def _reasonless(sentence: str) -> str:
    """A sentence up to its reason and without what stands in brackets, if a number remains."""
    reason = _REASON.search(sentence)
    said = _BRACKETS.sub("", sentence[: reason.start()] if reason else sentence)
    return said if _VALUE.search(said) else sentence


_LEAD = re.compile(r"^\W*(?:since|because|as|given that)\b[^,]*,\s*", re.IGNORECASE)
_BRACKETS = re.compile(r"\s+\([^()\n]*\)")
_THERE = re.compile(
    r"\bthere(?:\s+(?:are|is|were|was|will be|would be|remain)|['’](?:s|re))\s", re.IGNORECASE
)
_FIRST = re.compile(
    r"\W*(?:(?:therefore|thus|so|hence|overall|in total),?\s+)?"
    r"(?:only\s|about\s|exactly\s|approximately\s|a total of\s)?",
    re.IGNORECASE,
)
_SECOND = re.compile(r"[,;=]|\b(?:and|or|so|leaving)\b", re.IGNORECASE)
_NOUN = re.compile(
    r"\s+(?!of\b(?! them| these| those)|plus\b|minus\b|times\b|and\b|or\b|out\b|in\b|to\b)[a-z]"
)
_ASIDE = re.compile(r"\b(?:for|at|per|with|after|before|since|on)\s+\W?$", re.IGNORECASE)
_YEAR = re.compile(r"\b(?:in|of|by|year|during)\s+(?:19|20)\d\d$", re.IGNORECASE)
_OF = re.compile(r"\s+of\s+(?:the|these|those|all|my|our|his|her|their)\s+", re.IGNORECASE)
_SEVERAL = re.compile(  # `2 cats and 3 dogs`
    rf"\W*(?:{_VALUE.pattern})(?:\s+[a-z]+){{1,3}}\s*(?:,|\band\b)\s+(?:{_VALUE.pattern})\s+[a-z]",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"\b(?:than|in|over|above|below|under|to (?!be\b)[a-z]+|exceed(?:s|ed|ing)?)\s+\W?$",
    re.IGNORECASE,
)


def _counted(sentence: str) -> re.Match[str] | None:
    """The count of `There are 2 bars that are shorter than 7` or `Two bars are shorter than 7`."""
    there = _THERE.search(sentence)
    if there:
        value = _VALUE.search(sentence, there.end())
        plain = value and not _SECOND.search(sentence[value.end() :])
        return value if plain else None
    lead = _FIRST.match(sentence)
    value = _VALUE.match(sentence, lead.end() if lead else 0)
    part = _OF.match(sentence, value.end()) if value else None
    if value and part and _VALUE.match(sentence, part.end()):
        return value
    if value is None or not _NOUN.match(sentence, value.end()):
        return None
    others = list(_VALUE.finditer(sentence, value.end()))
    bounds = all(_BOUND.search(sentence[: other.start()]) for other in others)
    return value if others and bounds else None


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
    correct = {match[1] or match[2] for match in _CORRECT.finditer(text[-400:])}
    if len(correct) == 1 and (options is None or correct <= set(options.letters)):
        return Named((correct.pop(),)), text[-80:]
    for sentence in reversed(last[-3:]):
        *_, clause = _SO.split(sentence)
        if HEDGED.search(clause) and not _AFFIRMED.search(clause):
            return None
        whole = () if HEDGED.search(sentence) and clause != sentence else (sentence,)
        for part in (*whole, clause, variants(clause)[-1]):
            found = _by_sentence(_BESIDE.sub("", _COMPARED.sub("", part)), options)
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


# What a sentence compares its subject with, which is not what it names.
_BESIDE = re.compile(
    r"^\W*(?:between|comparing)\b[^,]*,\s*|\s+than\b[^.,;\n]*|,\s*(?:with|while|whereas|unlike)\b[^.\n]*",
    re.IGNORECASE,
)
_CORRECT = re.compile(
    r"(?<![A-Za-z])(?<![A-J][、,和])([A-J])\s?(?:选项)?是?(?:正确|符合题意)|选项\s?([A-J])\s?是?(?:正确|符合题意)"
)
_SET_OFF = re.compile(
    r"[(（]\s*([A-Z])\s*[)）]|\b(?:option|choice|answer|letter)\s+\W{0,3}([A-Z])(?![A-Za-z'’])|(?:^|\s)\*\*\(?([A-Z])[).:*]|^\s*([A-Z])[).:]\s"
)


_ALONE = re.compile(
    r"\W*(?:the\s+)?(?:picture|image|figure|shape|one|option|choice|letter|number)?\s*\W*([A-Z])\W*"
)


def _by_sentence(sentence: str, options: Options | None) -> Named | None:
    if options and len(denying := options.denying(sentence)) == 1:
        return Named((denying.pop(),))
    only = _ONLY.search(sentence)
    if NEGATED.search(sentence) and not _AFFIRMED.search(sentence) and not only:
        sentence = re.split(r",\s*(?:so|but|therefore|hence|thus)\b|;", sentence)[-1]
        if NEGATED.search(sentence):
            return None
    set_off = {next(p for p in m.groups() if p): m.end() for m in _SET_OFF.finditer(sentence)}
    letters = set(set_off)
    if options:
        behind = {each: options.mentioned(sentence[at:])[:1] for each, at in set_off.items()}
        if any(said and said[0][0] < 3 and said[0][1] != each for each, said in behind.items()):
            return SEVERAL
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


_ONLY = re.compile(r"\b(?<!not )only\b", re.IGNORECASE)
_AFFIRMED = re.compile(r"\b(?:correct|right|best)\s+(?:answer|option|choice)\b", re.IGNORECASE)


def any_truth(text: str) -> tuple[str, str] | None:
    """(what, rule): whether the last sentence says that something is true; None if it does not."""
    if truth(text) is not None:
        return text, "first_word"
    last = sentences(asked(text))
    if not last or NEGATED.search(last[-1]) or HEDGED.search(last[-1]):
        return None
    said = predicate(unmark(last[-1]))
    return (said, "last_sentence") if said and truth(said) is not None else None


def _by_truth(text: str, options: Options) -> Named | None:
    answers = {
        value: i for i, option in enumerate(options.texts) if (value := truth(option)) is not None
    }
    if len(answers) != 2:
        return None
    said = truth(text)
    return None if said is None else Named((options.letters[answers[said]],))
