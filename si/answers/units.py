"""Units: what may stand behind a number, in all its spellings, and how units convert.

A unit is a product of powers of known units (`km/h`, `cm^2`, `N·m`), or a counted noun
(`apples`). One letter alone is a variable unless it stands upright or behind a blank.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from si.answers.unit_table import COMPOUND, LOWER, NAMES, SIZES

_NOTHING = {
    "unit",
    "units",
    "u",
    "approx",
    "approximately",
    "about",
    "roughly",
    "total",
    "exactly",
    "only",
}
_SINGLE = frozenset("msghKNJWVACFTLlΩtM")


@dataclass(frozen=True, slots=True)
class Unit:
    """A product of powers of units, or a counted noun.

    Attributes:
        powers: (symbol, power), sorted; empty for a noun.
        noun: the noun's words in the singular; empty for a known unit.
    """

    powers: tuple[tuple[str, int], ...] = ()
    noun: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.noun:
            return " ".join(self.noun)
        return "·".join(name if power == 1 else f"{name}^{power}" for name, power in self.powers)

    @property
    def dimension(self) -> tuple[tuple[str, int], ...]:
        """Powers of dimensions, by which units convert."""
        total: dict[str, int] = {}
        for name, power in self.powers:
            dimension = SIZES[name][0] if name in SIZES else name
            if dimension in ("LLL", "/T"):
                dimension, power = ("L", 3 * power) if dimension == "LLL" else ("T", -power)
            total[dimension] = total.get(dimension, 0) + power
        return tuple(sorted((name, power) for name, power in total.items() if power))

    @property
    def size(self) -> Fraction:
        """The unit in base units of its dimension."""
        made = Fraction(1)
        for name, power in self.powers:
            made *= (SIZES[name][1] if name in SIZES else Fraction(1)) ** power
        return made


NONE = Unit()
PERCENT = Unit((("%", 1),))
DEGREE = Unit((("°", 1),))


def agree(one: Unit, other: Unit) -> bool:
    """Whether two units are the same; a number without one agrees with every unit."""
    if one == other or not (one.powers or one.noun) or not (other.powers or other.noun):
        return True
    if one.noun and other.noun:
        return one.noun[-1] in other.noun or other.noun[-1] in one.noun
    return False


def factor(one: Unit, other: Unit) -> Fraction | None:
    """What a value in `one` is multiplied with to be in `other`; None between dimensions."""
    if not (one.powers and other.powers) or one.dimension != other.dimension:
        return None
    if any(SIZES.get(name, ("", 1))[0] in ("KC", "KF") for name, _ in (*one.powers, *other.powers)):
        return None  # degrees of temperature have no common zero
    return one.size / other.size


# Words that end a number's meaning rather than name what is counted.
_STOP = frozenset(
    [
        "and",
        "or",
        "to",
        "plus",
        "minus",
        "times",
        "divided",
        "by",
        "more",
        "less",
        "fewer",
        "greater",
        "than",
        "not",
        "is",
        "are",
        "was",
        "were",
        "be",
        "isn't",
        "over",
        "half",
        "halves",
        "third",
        "thirds",
        "quarter",
        "quarters",
        "fourth",
        "fourths",
        "fifth",
        "percent",
        "pi",
        "sqrt",
        "root",
        "roots",
        "thousand",
        "million",
        "billion",
        "trillion",
        "hundred",
        "dozen",
        "between",
        "from",
        "but",
        "if",
        "either",
        "neither",
        "nor",
        "squared",
        "cubed",
        "with",
        "without",
        "except",
        "wrong",
        "incorrect",
        "because",
        "since",
        "so",
        "as",
        "which",
        "that",
        "when",
        "where",
        "while",
        "who",
        "until",
        "then",
        "thus",
        "hence",
        "therefore",
        "we",
        "i",
        "you",
        "it",
        "equals",
        "equal",
        "does",
        "do",
        "did",
        "has",
        "have",
        "had",
        "can",
        "could",
        "should",
        "would",
        "will",
        "must",
        "may",
        "might",
        "instead",
        "rather",
        "versus",
        "vs",
        "point",
        "negative",
        "positive",
        "mod",
        "modulo",
        "factorial",
        "choose",
        "infinity",
        "inf",
        "sin",
        "cos",
        "tan",
        "log",
        "ln",
        "exp",
        "for",
        "this",
        "their",
        "there",
        "they",
        "he",
        "she",
        "both",
        "all",
        "each",
        "every",
        "any",
        "no",
        "none",
    ]
)
_TOKEN = re.compile(
    r"\s*(?:(?P<word>[^\W\d_]+(?:['’.-][^\W\d_]+)*\.?|°[CF]?|[℃℉%$€£¥₹¢])"
    r"|(?P<power>\^?\s*\{?\s*(?P<digits>[-−]?\d)\s*\}?|[²³])|(?P<by>[/·*.⋅•-]|\\cdot|\\times|\\,))"
)


_CELSIUS = re.compile(r"(?:°|degrees?)\s*(celsius|fahrenheit|C\b|F\b)", re.IGNORECASE)


@lru_cache(maxsize=20_000)
def read(text: str, upright: bool = True) -> Unit | None:
    """The unit that a text names; `NONE` for a word that names none, None if it is not a unit.

    Args:
        upright: whether one letter may be a unit (`\\text{m}`, `5 m`), not a variable.
    """
    text = _CELSIUS.sub(lambda match: "°" + match[1][0].upper(), text.strip(" .,"))
    text = text.removeprefix("(").removesuffix(")") if text.startswith("(") else text
    if not text:
        return NONE
    if len(text) > 60:
        return None
    return _known(text, upright) or _noun(text)


def _symbol(word: str, upright: bool) -> str | None:
    bare = word.rstrip(".")
    if len(bare) == 1 and bare.isascii() and bare.isalpha():
        return NAMES.get(bare) if upright and bare in _SINGLE else None
    return NAMES.get(bare) or LOWER.get(bare.lower())


def _known(text: str, upright: bool) -> Unit | None:
    """A product of powers of known units."""
    powers: dict[str, int] = {}
    sign, times, last, at = 1, 1, "", 0
    if text.lower() in _NOTHING:
        return NONE
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.end() == at:
            return None
        at = match.end()
        word = match["word"]
        if word:
            lower = word.lower().rstrip(".")
            if lower in ("per", "a", "an") and powers:
                sign = -1
                continue
            if lower in ("square", "sq", "cubic", "cu"):
                times = 2 if lower[0] == "s" else 3
                continue
            if lower in ("squared", "cubed") and last:
                powers[last] *= 2 if lower[0] == "s" else 3
                continue
            if lower in _NOTHING:
                if times != 1 or not powers:  # "square units"
                    times = 1
                    continue
                return None
            symbol = _symbol(word, upright or bool(powers))
            if symbol is None:
                return None
            for name, power in COMPOUND.get(symbol, ((symbol, 1),)):
                powers[name] = powers.get(name, 0) + sign * power * times
                last = name
            times = 1
        elif match["power"]:
            if not last:
                return None
            raised = {"²": 2, "³": 3}.get(match["power"].strip())
            power = raised or int((match["digits"] or "1").replace("−", "-"))
            if "^" not in match["power"] and match["digits"] and text[at - len(match[0])].isspace():
                return None  # a number behind a unit is another number
            sign_of_last = 1 if powers[last] > 0 else -1
            if power < 0:
                sign_of_last = 1
            powers[last] += sign_of_last * (power - 1) if power > 0 else power - 1
            last = ""
        elif match["by"] == "/":
            sign = -1
    return Unit(tuple(sorted((name, power) for name, power in powers.items() if power)))


def _noun(text: str) -> Unit | None:
    """A counted noun of at most four words."""
    lowered = text.replace("’", "'").split()
    if not 1 <= len(lowered) <= 4:
        return None
    made: list[str] = []
    for word in lowered:
        word = word.strip("().,").lower()
        if not word.replace("-", "").replace("'", "").isalpha() or (word in _STOP):
            return None
        if len(word) < 2 and word.isascii() and not (made and word == "a"):
            return None
        if word in (
            "old",
            "in",
            "of",
            "the",
            "a",
            "on",
            "at",
            "away",
            "long",
            "tall",
            "high",
            "left",
            "away",
        ):
            if not made:
                return None
            if word in ("of", "in", "on", "at"):
                break  # "pieces of cake": the piece is counted
            continue
        if word in _NOTHING:
            continue
        made.append(singular(word))
    return Unit(noun=tuple(made)) if made else NONE


_IRREGULAR = {
    "people": "person",
    "persons": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "vertices": "vertex",
    "indices": "index",
    "dice": "die",
    "faces": "face",
    "boxes": "box",
    "ways": "way",
}


def singular(word: str) -> str:
    """An English noun in the singular, well enough to compare."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return word[:-1]
    return word
