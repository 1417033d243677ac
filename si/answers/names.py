r"""Texts whose letters are symbols: names of geometry, chemistry and codes.

`AB \parallel CD` is `CD \parallel AB`, and a segment's or angle's ends may be exchanged; the
letters of `\triangle ABC` may not, and nothing here is ever multiplied out.
"""

import re

from si.answers.text import trim, words

_SIGNS = {
    "∥": r"\parallel ", "⊥": r"\perp ", "≅": r"\cong ", "∼": r"\sim ", "∽": r"\sim ",
    "△": r"\triangle ",
    "∠": r"\angle ", "⊙": r"\odot ", "‖": r"\parallel ", "||": r"\parallel ", "//": r"\parallel ",
}  # fmt: skip
_DRAWN = re.compile(
    r"\\(?:triangle|angle|measuredangle|overline|parallel|perp|cong|sim|overrightarrow|overleftrightarrow|odot|widehat)(?![a-zA-Z])"
)
_RELATION = re.compile(r"\\(parallel|perp|cong|sim)(?![a-zA-Z])")
_SYMBOL = re.compile(
    r"[A-Za-z]*\d[\w().+\-^{}]*|[A-Z][a-z]?(?:[A-Z][a-z]?)+|[A-Z]|(?:[A-Z][a-z]?\d*)+"
)


def geometry(text: str) -> str | None:
    """A name or relation of geometry in one spelling; None if it is not one."""
    text = re.sub(r"(?<![\\a-zA-Z])(triangle|angle)(?=\s+[A-Z]{3}\b)", r"\\\1", text)
    for sign, command in _SIGNS.items():
        text = text.replace(sign, command)
    if not _DRAWN.search(text):
        return None
    text = trim(words(text)).replace("\\measuredangle", "\\angle")
    sides = _RELATION.split(text)
    named = [_side(side) for side in sides[::2]]
    relation = sides[1] if len(sides) == 3 else ""
    if relation in ("parallel", "perp"):
        named = sorted(name.removeprefix("overline ") for name in named)
    elif len(named) == 2:
        named = sorted(named)
    return f" {relation} ".join(named)


def _side(side: str) -> str:
    kind = re.search(
        r"\\(triangle|angle|overline|overrightarrow|overleftrightarrow|odot|widehat)", side
    )
    letters = re.sub(
        r"\\[a-zA-Z]+|[{}\s$]|(?:line |segment |angle |triangle )", "", side
    ).removeprefix("m")
    name = kind[1] if kind else ""
    if name in ("angle", "overline", "overleftrightarrow", "widehat", "") and len(letters) in (
        2,
        3,
    ):
        letters = min(letters, letters[::-1])
    return f"{name} {letters}".strip()


_CLOCK = re.compile(r"(?<=\d)\s*([ap])\.?\s?m\b\.?", re.IGNORECASE)


def spoken(text: str, reference: str) -> str:
    """A text as its reference writes clock times, ratios and ranges: `3 to 4` is `3:4` there."""
    text = _CLOCK.sub(lambda match: f" {match[1].lower()}m", text)
    plain = trim(words(reference))
    joint = ":" if re.fullmatch(r"\d+\s*:\s*\d+", plain) else "-" if _RANGE.fullmatch(plain) else ""
    return re.sub(r"(?<=\d)\s+to\s+(?=\d)", joint, text) if joint else text


_RANGE = re.compile(r"\d+\s*[-–]\s*\d+")


def plain_symbols(text: str) -> str:
    """A name of symbols without the marks of its indices: `H_{2}O` is `H2O`."""
    return re.sub(r"[_^{}]", "", text)


def symbols(text: str) -> bool:
    """Whether a text's letters are symbols, whose case and order carry meaning: `Fe2O3`, `A1`."""
    return bool(_SYMBOL.fullmatch(trim(words(text)).replace("_", "")))
