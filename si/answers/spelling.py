r"""Formulas in one spelling before they are read: Unicode signs as LaTeX, layout dropped."""

import re

from si.answers.text import FONTS, unmark, unwrap

LONGEST = 512  # characters of a formula


class Unreadable(ValueError):
    """A text is not mathematics that our rules know."""


class TooBig(ValueError):
    """A formula is too long, too deep, or its value too big."""


# One letter outside of mathematics, behind a number and a blank, is a unit: `300 K`, not `2a`.
_LETTER = re.compile(r"(^[^$\\]{0,80}\d[ \t]+|\d[ ]?\$[ ]?)([msghKNJWVACFTLlΩ])(?![A-Za-z_({=])")
_SUPER = {ord(c): d for c, d in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True)}
_SUB = {ord(c): d for c, d in zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)}
_SUPERS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SUBS = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5",
    "⅗": "3/5", "⅘": "4/5",
    "⅙": "1/6", "⅚": "5/6", "⅐": "1/7", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
    "⅑": "1/9", "⅒": "1/10",
}  # fmt: skip
_FRACTION = re.compile("[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒]")
_SIGNS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "∙": "*", "⋅": "*", "•": "*", "÷": "/",
        "⁄": "/", "∕": "/",
        "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "≤": r"\le ",
        "≥": r"\ge ",
        "⩽": r"\le ", "⩾": r"\ge ", "≦": r"\le ", "≧": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
        "≃": r"\approx ",
        "≡": r"\equiv ", "±": r"\pm ", "∓": r"\mp ", "∅": r"\emptyset ", "∖": r"\setminus ",
        "∠": r"\angle ",
        "∡": r"\angle ", "△": r"\triangle ", "º": "°", "˚": "°", "θ": r"\theta ", "α": r"\alpha ",
        "β": r"\beta ",
        "γ": r"\gamma ", "λ": r"\lambda ", "φ": r"\phi ", "ω": r"\omega ", "σ": r"\sigma ",
        "δ": r"\delta ",
        "ρ": r"\rho ", "τ": r"\tau ", "Δ": r"\Delta ", "ℝ": r"\mathbb{R}", "′": "'", "’": "'",
        "，": ",", "：": ":",
        "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "→": r"\to ",
        "∼": r"\approx ",
    }
)  # fmt: skip
_ROOTS = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[a-zA-Z]|(?=[({\\]))")
_COMMANDS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "leqslant": "le",
    "leqq": "le", "geq": "ge",
    "geqslant": "ge", "geqq": "ge", "neq": "ne", "lbrace": "{", "rbrace": "}", "arcosh": "acosh",
    "asin": "arcsin",
    "acos": "arccos", "atan": "arctan", "varnothing": "emptyset", "lt": "<", "gt": ">",
    "ast": "*", "bullet": "*",
    "simeq": "approx", "sim": "approx", "dbinom": "binom", "tbinom": "binom", "colon": ":",
    "tg": "tan", "ctg": "cot",
    "degrees": "degree", "measuredangle": "angle", "varpi": "pi", "textdegree": "degree",
    "centerdot": "cdot",
    "lparen": "(", "rparen": ")", "lbrack": "[", "rbrack": "]", "vert": "|", "mid": "|",
    "Vert": "|",
}  # fmt: skip
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_DROPPED = frozenset(
    [
        "left",
        "right",
        "displaystyle",
        "textstyle",
        "limits",
        "nolimits",
        "big",
        "Big",
        "bigg",
        "Bigg",
        "bigl",
        "bigr",
        "Bigl",
        "Bigr",
        "quad",
        "qquad",
        "rm",
        "bf",
        "it",
        "sf",
        "scriptstyle",
        "boldmath",
        "middle",
        "thinspace",
    ]
)
_THOUSANDS = (
    re.compile(r"(?<=\d)\s*(?:\{,\}|,\\!\s*|\\,|\\ |,\\,|,\\ |\u2009|')(?=\d{3}(?!\d))"),
    re.compile(r"(?<![\d.])(\d{1,3}(?: \d{3})+)(?![\d/]|\s*/)"),
)
_SPACING = re.compile(r"\\[,;:! >]|~(?=\S)|\\(?=\s)|\\\\$")
_TIMES_TEN = re.compile(r"(?<=\d)\s*(?:[xX]|\*)\s*10\s*(?:\^|\*\*)")
_WORDS = {
    "less than or equal to": r" \le ", "greater than or equal to": r" \ge ", "less than": " < ",
    "greater than": " > ",
    "union": r" \cup ", "plus or minus": r" \pm ", "pi": r" \pi ", "infinity": r" \infty ",
    "approximately equal to": r" \approx ",
    "square root of": r"\sqrt ", "negative": "-", "minus": "-", "plus": "+", "times": "*",
    "divided by": "/",
}  # fmt: skip
_WORD = re.compile(r"(?<![a-zA-Z\\])(" + "|".join(_WORDS) + r")(?![a-zA-Z])", re.IGNORECASE)
_ABOUT = re.compile(
    r"^\s*(?:(?:approximately|approx\.?|about|roughly|around|exactly|only|just|equal to|equals?"
    r"|a total of|is|therefore|thus|simply|clearly|(?:in\s+)?(?:the\s+)?year|in(?=\s+\d{4}\W*$))"
    r"(?![a-zA-Z])\s*|[~≈=:]\s*|\\approx\s*|\\text\{\s*(?:approximately|about)\s*\}\s*)+",
    re.IGNORECASE,
)
_NOTE = re.compile(
    r"\s*\(\s*(?:approx(?:\.|imately)?|rounded[^()]{0,40}|to [^()]{0,40}|exact(?:ly)?)\s*\)\s*$",
    re.IGNORECASE,
)
_TOTAL = re.compile(
    r"(?<=[\d}$)])\s+(?:in total|in all|altogether|of them|total)\s*$", re.IGNORECASE
)
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)(?![a-zA-Z])")
_RANGE = re.compile(r"\s*(\d+)\s?-\s?(\d+)\s*|\d+(?:\s*-\s*\d+){2,}|\d+/\d+/\d+")
_JOINERS = re.compile(r"\\(?:text|mathrm|textbf|mbox|textrm)\s*\{\s*(and|or|,|;)\s*\}")
_ENVIRONMENT = re.compile(
    r"\\begin\{(?:aligned|align\*?|gathered|array|split|equation\*?)\}|\\end\{[a-z*]+\}"
)
_SMALL_O = re.compile(r"\^\s*(?:o(?![a-zA-Z])|\{\s*o\s*\})")  # 90^o
_FONT_ONLY = re.compile(
    r"\\(?:boxed|fbox|mathbf|boldsymbol|bm|ensuremath|mathit|mathnormal|textbf|underline)\s*\{([^{}]*)\}"
)


def spell(text: str) -> str:
    r"""A formula with LaTeX's commands for all signs, and without markup, delimiters and layout.

    Raises:
        Unreadable: if it is a date or a range of numbers, which is not arithmetic.
        TooBig: if it is too long.
    """
    text = unwrap(_LETTER.sub(r"\1\\text{ \2}", unmark(text))).strip()
    if len(text) > LONGEST:
        raise TooBig("too long")
    if "~" in text:
        text = re.sub(r"(?<=\w)~(?=\w)", " ", text)
    if not text.isascii():
        text = _unicode(text)
    if "^" in text:
        text = _SMALL_O.sub(r"^\\circ ", text)
    if "\\" in text:
        text = _latex(text)
    text = _NOTE.sub("", _TOTAL.sub("", _ABOUT.sub("", text))).strip().rstrip(".,;:").strip()
    range_ = _RANGE.fullmatch(text)
    if range_ and (not range_[1] or int(range_[1][:12]) < int(range_[2][:12])):
        raise Unreadable("a range or a date")
    for pattern in _THOUSANDS[:1]:
        text = pattern.sub("", text)
    text = _THOUSANDS[1].sub(lambda match: match[1].replace(" ", ""), text)
    text = _ORDINAL.sub("", text)
    text = _TIMES_TEN.sub("*10^", text)
    if any(char.isalpha() for char in text):
        text = _WORD.sub(lambda match: _WORDS[match[1].lower()], text)
    return (
        text.replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ").replace("==", "=")
    )


def _unicode(text: str) -> str:
    text = _SUPERS.sub(lambda match: "^{" + match[0].translate(_SUPER) + "}", text)
    text = _SUBS.sub(lambda match: "_{" + match[0].translate(_SUB) + "}", text)
    text = _FRACTION.sub(lambda match: f" {_VULGAR[match[0]]} ", text)
    text = _ROOTS.sub(_root, text)
    return text.translate(_SIGNS)


def _root(match: re.Match[str]) -> str:
    degree = {"√": "", "∛": "[3]", "∜": "[4]"}[match[1]]
    return rf"\sqrt{degree}{{{match[2]}}}" if match[2] else rf"\sqrt{degree}"


def _command(match: re.Match[str]) -> str:
    name = match[1]
    if name in _DROPPED:
        return " "
    new = _COMMANDS.get(name)
    if new is None:
        return match[0]
    return new if len(new) == 1 and new not in "{}" else "\\" + new


def _latex(text: str) -> str:
    text = _COMMAND.sub(_command, _ENVIRONMENT.sub(" ", text))
    for pattern in _THOUSANDS[:1]:
        text = pattern.sub("", text)
    for _ in range(3):
        before, text = text, _FONT_ONLY.sub(r" \1 ", text)
        if before == text:
            break
    text = _JOINERS.sub(r" \1 ", text)
    return _SPACING.sub(" ", text)


__all__ = ["FONTS", "LONGEST", "TooBig", "Unreadable", "spell"]
