r"""Text in one spelling: control characters, Unicode forms, markup, LaTeX's fonts and layout.

Three spellings of an answer: `clean` for a whole response, `formula` for what is read as
mathematics, `words` for what is compared as text.
"""

import re
import unicodedata

WINDOW = 1 << 15  # characters from the end in which an answer is looked for
RUN = 15  # equal signs in a row that are kept, so that no pattern has much to go back over
RUNS = re.compile(r"(\W)\1{15,}|(?:[ \t]*\n){16,}")

_CONTROL: dict[int, str | None] = {
    **dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160)), " "),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),  # lone surrogates cannot be stored
    **dict.fromkeys((0x0D, 0x2028, 0x2029), "\n"),
    **dict.fromkeys((0xAD, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F)), None),
    **dict.fromkeys(range(0x2060, 0x206A), None),
    **dict.fromkeys((0xA0, 0x2002, 0x2003, 0x2007, 0x2008, 0x2009, 0x200A, 0x202F, 0x3000), " "),
    **dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2212), "-"),
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width forms
}
_STYLED = re.compile("[\U0001d400-\U0001d7ff]")  # bold, italic ... letters and digits
_DIRTY = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def clean(text: str) -> str:
    """A response or reference without control characters, in one Unicode form (NFC)."""
    if text.isascii():
        if not _DIRTY.search(text):
            return text
        return text.replace("\r\n", "\n").translate(_CONTROL)
    text = text.replace("\r\n", "\n").translate(_CONTROL)
    text = _STYLED.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return unicodedata.normalize("NFC", text)


# --- markup ---------------------------------------------------------------------------------

_STARS = re.compile(
    r"(?<![\w)\]}])\*\*(?=\S)|(?<=\S)\*\*(?![\w(\[{\\])|(?<!\w)__(?=\S)|(?<=\S)__(?!\w)"
)
_BOLD = re.compile(
    r"\*\*(?=\S)([^*\n]{1,400}?)(?<=\S)\*\*|(?<!\w)__(?=\S)([^_\n]{1,400}?)(?<=\S)__"
)
_ITALIC = re.compile(r"(?<![\w*)\\])\*(?=[^\s*])([^*\n]{1,200}?)(?<=[^\s*])\*(?![\w*(])")
_POWERS = re.compile(r"^[\w.()+\-*/^ ]*[\w)]\*\*[\w(][\w.()+\-*/^ ]*$")


def unmark(text: str) -> str:
    """Text without Markdown's bold, italic and code marks; `x**2` stays a power."""
    if "*" not in text and "_" not in text and "`" not in text:
        return text
    if "**" in text and not (_POWERS.match(text) and text.count("**") % 2):
        text = _BOLD.sub(lambda match: match[1] or match[2], text)
        text = _STARS.sub("", text)
    elif "__" in text:
        text = _BOLD.sub(lambda match: match[1] or match[2], text)
    text = _ITALIC.sub(r"\1", text)
    return text.replace("`", "")


# --- mathematics' delimiters ----------------------------------------------------------------

# Money: a dollar sign that closes nothing. As in Pandoc, a formula's closing sign has no blank
# before it and no digit behind it.
_INLINE = re.compile(
    r"(?<!\\)\$\$(.{1,2000}?)\$\$|(?<!\\)\$(?!\s)([^$\n]{0,2000}?[^$\s\\])\$(?!\d)", re.DOTALL
)
_SPACED = re.compile(r"^\s*\$\s+([^$\n]{1,2000}?)\s+\$[\s.]*$")
_DELIMITERS = re.compile(r"(?<!\\)\\[()\[\]]")
_SIZES = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|dfrac(?=\Z)|[bB]igg?[lr]?|limits|nolimits|bm|boldsymbol)"
    r"(?![a-zA-Z])"
)


def unwrap(text: str) -> str:
    r"""Text without `$...$`, `\(...\)` and the like; a dollar sign of money becomes `\$`."""
    if "$" in text:
        spaced = _SPACED.match(text)
        text = spaced[1] if spaced else _INLINE.sub(lambda match: f" {match[1] or match[2]} ", text)
        text = re.sub(r"(?<!\\)\$", r"\\$", text)
    return _DELIMITERS.sub(" ", text) if "\\" in text else text


FONTS = (
    "text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mathtt|mathnormal"
    "|mbox|hbox|operatorname|emph|underline|bf|rm|it|boldsymbol|bm|ensuremath|fbox|boxed|mathbb|mathcal"
)
_FONT = re.compile(rf"\\(?:{FONTS})\*?\s*\{{([^{{}}]*)\}}")
_BARE_FONT = re.compile(
    r"\\(?:bf|rm|it|sf|tt|em)(?![a-zA-Z])|\\(?:text|math)(?:bf|rm|it|sf)(?=\s+\w)"
)
_SPACING = re.compile(
    r"(?<!\\)\\[,;:! ]|\\q?quad(?![a-zA-Z])|~|\\(?:hspace|vspace|phantom)\{[^{}]*\}"
)


def words(text: str) -> str:
    """An answer as text: no markup, no mathematics' delimiters, fonts or layout."""
    text = unwrap(unmark(text))
    if "\\" in text or "~" in text:
        text = _SIZES.sub("", text)
        for _ in range(4):  # fonts nest, but not without end
            before, text = text, _FONT.sub(r" \1 ", text)
            if before == text:
                break
        text = _SPACING.sub(" ", _BARE_FONT.sub(" ", text)).replace("\\\\", " ")
        text = re.sub(r"\\([%#&_{}])", r"\1", text)
    return trim(text)


_QUOTES = {
    '"': '"',
    "'": "'",
    "“": "”",
    "‘": "’",
    "«": "»",
    "`": "`",
    "「": "」",
    "『": "』",
    "《": "》",
}


def trim(text: str) -> str:
    """Text without blanks, wrapping quotes, and stops at its end."""
    text = " ".join(text.split())
    for _ in range(4):
        before = text
        text = text.strip(" \t*_").rstrip(".;,。，；、:：").strip()
        text = re.sub(r"(?<=[a-zA-Z])!+$", "", text)
        closing = _QUOTES.get(text[:1])
        if closing and len(text) > 2 and text.endswith(closing) and text.count(closing) <= 2:
            text = text[1:-1].strip()
        if len(text) > 2 and text[0] == "{" and text[-1] == "}" and "{" not in text[1:]:
            text = text[1:-1].strip()
        if text == before:
            break
    return text


_ARTICLE = re.compile(r"^(?:the|an|a)\s+(?=\S)|(?<=\s)(?:the|an|a)\s+(?=\S)")
_LEAD = re.compile(
    r"^(?:(?:it|this|that|they|these|he|she|there)"
    r"(?:\s+(?:is|are|was|were|would be|must be)|['’](?:s|re))\s+"
    r"|(?:indeed|for sure|surely|of course|obviously|probably|most\s+likely|likely|clearly|simply"
    r"|just|therefore|thus|then|hence|actually|definitely|certainly)\s*,?\s+)+",
    re.IGNORECASE,
)
_PUNCTUATION = re.compile(r"[\"“”„«»‚'‘’`´]")
_JOINS = re.compile(r"\s*([-–—/:,;+=<>])\s*")


def fold(text: str, case: bool = False) -> str:
    """The form in which texts are compared: no articles, quotes or case, one kind of blank.

    Args:
        case: keep the case, for texts whose letters are symbols (`Fe2O3`, `A1`).
    """
    text = unicodedata.normalize("NFKC", words(text))
    text = _PUNCTUATION.sub("", text)
    text = _JOINS.sub(r"\1", text.replace("–", "-").replace("—", "-").replace("×", "x"))
    if case:
        text = re.sub(r"^the\s+(?=\S)", "", text, flags=re.IGNORECASE)
    else:
        text = text.casefold()
        bare = _ARTICLE.sub("", text)
        text = bare or text
    return " ".join(text.split()).strip(" .,;:!?。，")


def leadless(text: str) -> str:
    """Text without a lead such as `it is` or `they are`."""
    return _LEAD.sub("", text, count=1)


TRUE = frozenset(["yes", "true"]) | {"是", "对", "正确"}
FALSE = frozenset(["no", "false"]) | {"否", "不是", "错", "错误"}


def truth(text: str) -> bool | None:
    """True or False if a text says so with its first word: `Yes, it is.`; else None."""
    match = re.match(r"[\W_]*([A-Za-z]+|是的?|否|不是|对|错误?|正确)(?![A-Za-z])\s*(.?)", text)
    if match is None:
        return None
    word = match[1].lower().rstrip("的")
    if (
        match[2]
        and match[1].isascii()
        and match[2] not in ",.;:!，。；：(-–—"
        and len(text.split()) > 1
    ):
        follows = text[match.start(2) :]
        if not re.match(
            r"(?:it|they|he|she|there|the|this|that|because|since|we|you)\b", follows, re.IGNORECASE
        ):
            return None
    return True if word in TRUE else False if word in FALSE else None


def braced(text: str, start: int, limit: int = 4096) -> int:
    """Where the brace that opens at `start` closes; -1 if it does not within `limit`."""
    depth = 0
    for position in range(start, min(len(text), start + limit)):
        char = text[position]
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return position
    return -1
