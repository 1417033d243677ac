r"""Reading mathematics: LaTeX and plain text to a small tree, by rules of our own.

`read` understands numbers, fractions, roots, powers, functions, units, relations, tuples,
intervals, sets, unions, matrices and lists of these. What it does not understand raises
`Unreadable`; what is too long or too deep raises `TooBig`. Both are decided by the text alone.

A tree is a tuple whose first item names its type:

    ("num", Fraction, digits)  digits: significant digits of a decimal, else None
    ("var", name)  ("const", pi | e | i | inf)  ("base", Fraction, base)
    ("add", a, b, ...)  ("mul", a, b)  ("div", a, b)  ("pow", a, b)  ("neg", a)
    ("pm", a, sign)
    ("fn", name, arguments...)  ("fact", a)  ("pct", a)  ("deg", a)
    ("qty", a, Unit)  ("group", opening, closing, items)  ("set", items)  ("list", items, joint)
    ("rel", sides, operators, names)  ("union", a, b, ...)  ("minus", a, b)  ("matrix", rows)
"""

import re
from fractions import Fraction
from functools import lru_cache

from si.answers import units
from si.answers.expressions import expression
from si.answers.spelling import LONGEST, TooBig, Unreadable, spell
from si.answers.tokens import CONSTANTS, DEEPEST, FUNCTIONS, Node
from si.answers.unit_table import NAMES
from si.answers.units import Unit

_RELATIONS = {
    "=": "=", "\\equiv": "=", "<": "<", ">": ">", "\\le": "<=", "\\ge": ">=", "\\ne": "!=",
    "\\approx": "~", "\\in": "in", "\\to": "=", "\\Rightarrow": "=",
}  # fmt: skip
_RELATION = re.compile(r"\\(?:le|ge|ne|approx|equiv|in)(?![a-zA-Z])|[=<>]")
_OPEN = re.compile(r"\\[{}]|[(){}\[\]]")


def read(text: str) -> Node:
    """The tree of an answer or reference.

    Raises:
        Unreadable: if it is not mathematics that these rules know.
        TooBig: if it is longer or deeper than any answer.
    """
    matrix = _MATRIX.search(text) if "\\begin" in text else None
    if matrix and len(text) <= LONGEST:
        if re.search(r"\d", text[: matrix.start()] + text[matrix.end() :]):
            raise Unreadable("an expression of matrices")
        rows = [
            row.split("&") for row in re.split(r"\\\\|\\cr(?![a-zA-Z])", matrix[2]) if row.strip()
        ]
        return ("matrix", tuple(tuple(_statement(spell(cell)) for cell in row) for row in rows))
    return _statement(spell(text))


_MATRIX = re.compile(r"\\begin\{([pbvBV]?matrix|array)\}(?:\{[^{}]*\})?(.*?)\\end\{\1\}", re.DOTALL)


@lru_cache(maxsize=4096)
def read_once(text: str) -> Node:
    """`read`, remembered: for references, which many responses share."""
    return read(text)


# --- lists, relations, sets -----------------------------------------------------------------


def _split(text: str, pattern: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Parts of a text between matches outside of all brackets, and the matches."""
    parts: list[str] = []
    seps: list[str] = []
    depth = start = 0
    spots: list[tuple[int, int, str | None]]
    spots = [(m.start(), m.end(), None) for m in _OPEN.finditer(text)]
    spots += [(match.start(), match.end(), match[0]) for match in pattern.finditer(text)]
    for begin, end, found in sorted(spots, key=lambda spot: spot[:2]):
        if found is None:
            char = text[end - 1]
            depth += 1 if char in "({[" else -1
            if depth > DEEPEST:
                raise TooBig("too many brackets")
        elif depth <= 0 and begin >= start:
            parts.append(text[start:begin])
            seps.append(found)
            start = end
    parts.append(text[start:])
    return parts, seps


_COMMA = re.compile(
    r"[,;；、]|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|\\(?:land|lor|wedge|vee)(?![a-zA-Z])"
)
_NUMBERS = re.compile(r"\d{1,3}(?:,\d{3})+(?![\d,])")
_RUN = re.compile(r"\d[\d,]*\d")


def _thousands(text: str) -> str:
    """Text whose numbers outside of brackets have no commas: `1,000`, but not `(1,000)`."""
    if "," not in text:
        return text
    runs = list(_RUN.finditer(text))
    if any("," in run[0] and not _NUMBERS.fullmatch(run[0]) for run in runs):
        return text  # a list without blanks: 1,3
    made, at = "", 0
    for run in runs:
        if "," in run[0] and _closed(text, run.start()):
            made, at = made + text[at : run.start()] + run[0].replace(",", ""), run.end()
    return made + text[at:]


def _statement(text: str) -> Node:
    text = text.strip()
    if not text:
        raise Unreadable("empty")
    separators, text = _COMMA, _thousands(text)
    parts, joints = _split(text, separators)
    if len(parts) > 64:
        raise TooBig("too long a list")
    parts = [part.strip() for part in parts]
    parts = [part for part in parts if part] if len(parts) > 1 else parts
    nodes = [_relation(part) for part in parts]
    if len(nodes) == 1:
        return nodes[0]
    last = nodes[-1]
    if last[0] == "qty" and all(node[0] != "qty" and node[0] != "rel" for node in nodes[:-1]):
        nodes = [("qty", node, last[2]) for node in nodes[:-1]] + [last]  # "3 and 4 cm"
    joined = {joint.strip("\\") for joint in joints}
    how = (
        "or"
        if joined & {"or", "lor", "vee"}
        else "and"
        if joined & {"and", "land", "wedge"}
        else ","
    )
    return ("list", tuple(nodes), how)


_NAME = re.compile(
    r"(?:the\s+)?(?:m\s*)?(?:\\(?:angle|triangle|measuredangle)\s*)?(?:[A-Za-z][A-Za-z']*(?:_\{?\w+\}?)?\s*){1,5}"
    r"(?:\([^()=<>]{0,40}\))?\s*|\\(?:text|mathrm|mathbf|vec|overline|operatorname|hat|bar)\s*\{[^{}]{1,40}\}\s*"
    r"(?:_\{?\w+\}?|\([^()]{0,20}\))?\s*|\\(?:alpha|beta|gamma|theta|phi|lambda|mu|omega|sigma|delta|rho|angle\s*\d)\s*"
    r"|(?:m\s*)?\\angle\s*\{?[A-Z0-9]{1,4}\}?\s*|\|?\\?(?:overline|overrightarrow)?\{?[A-Z]{1,3}'?\}?\|?\s*"
    r"|\(\s*[a-z](?:\s*,\s*[a-z])+\s*\)\s*|[A-Za-z]_\{[^{}]{1,30}\}\s*"
    r"|\\?(?:sin|cos|tan)\s*(?:\\angle\s*)?[A-Z]{1,3}\s*"
    r"|[A-Za-z]\^\{?-1\}?\([a-z]\)\s*|\\frac\{d[a-z]\}\{d[a-z]\}\s*|[a-z]'{1,2}\s*"
)


def _relation(text: str) -> Node:
    sides, operators = _split(text, _RELATION)
    if len(sides) == 1 or _BUILDER.fullmatch(text):
        return _sets(text)
    if len(sides) > 12:
        raise TooBig("too long a chain")
    if not sides[0].strip():  # "= 5", "≈ 3.14"
        if operators[0] not in ("=", "\\approx", "\\equiv"):
            raise Unreadable("a bound without a name")
        sides, operators = sides[1:], operators[1:]
        if not operators:
            return _sets(sides[0])
    if not sides[-1].strip():
        raise Unreadable("a side is empty")
    names = tuple(bool(_NAME.fullmatch(side.strip())) and not _constant(side) for side in sides)
    nodes = []
    for side, name in zip(sides, names, strict=True):
        if name and re.search(r"(?<![a-zA-Z])(?:is|are|was)(?![a-zA-Z])", side):
            raise Unreadable("a sentence, not a name")
        if name:
            try:
                nodes.append(_sets(side))
            except Unreadable:
                nodes.append(("var", " ".join(side.split())))
        else:
            nodes.append(_sets(side))
    ops = tuple(_RELATIONS[operator] for operator in operators)
    return ("rel", tuple(nodes), ops, names)


def _constant(side: str) -> bool:
    return side.strip().lstrip("\\").strip() in ("pi", "e", "i", "infty")


_UNION = re.compile(r"\\cup(?![a-zA-Z])|(?<=[)\]}])\s*U\s*(?=[(\[{\\])")
_MINUS = re.compile(r"\\(?:setminus|backslash|smallsetminus)(?![a-zA-Z])")


_BUILDER = re.compile(
    r"\s*\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\s*\{R\}\s*)?(?::|\||\\mid)\s*(.*)\\\}\s*", re.DOTALL
)


def _sets(text: str) -> Node:
    built = _BUILDER.fullmatch(text)
    if built and re.search(r"[<>=]|\\[lgn]e(?![a-z])", built[2]):
        return _statement(built[2])
    parts, _ = _split(text, _UNION)
    if len(parts) > 1:
        return ("union", *(_sets(part) for part in parts))
    parts, _ = _split(text, _MINUS)
    if len(parts) == 2:
        return ("minus", _sets(parts[0]), _sets(parts[1]))
    return _quantity(text.strip())


# --- units ----------------------------------------------------------------------------------

_MONEY = re.compile(
    r"^\s*([-+]?)\s*(?:US|A|C|HK|NZ)?(\\\$|[€£¥₹]|(?:Rs|USD|EUR|GBP|INR|RMB|CNY|JPY)\.?(?=\s*\d))\s*(?=[\d.(\\-])"
)
_MATH_WORDS = frozenset(
    (*FUNCTIONS, *CONSTANTS, "sqrt", "frac", "cup", "cap", "U", "degree", "degrees")
)
_UPRIGHT = (
    r"\\(?:text|textrm|textbf|textit|textsf|mathrm|mathbf|mathit|mathsf|mbox|operatorname|rm)\s*\{"
)
_TAIL = re.compile(
    rf"(?P<up>{_UPRIGHT})|(?P<word>(?<![\\A-Za-z_{{])[A-Za-zµμΩ°℃℉][A-Za-zµμ°]+|(?<=[\d}})\s])[^\x00-\x7f]+)"
    r"|(?P<sign>\\?%|\^\s*\{?\s*\\circ\s*\}?(?:\s*[CF](?![a-zA-Z]))?|\\degree|°\s*[CF]?|\\\$|[€£¥Ω℃℉¢])"
)
_ANGLED = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_ENDS = re.compile(r"(?:[\d)}\]!]|\\(?:pi|infty)|(?<![a-zA-Z])[a-z]|\.)\s*$")
_SCALES = {
    "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "dozen": 12, "mn": 10**6, "bn": 10**9, "万": 10**4, "亿": 10**8,
}  # fmt: skip
_FONT = re.compile(_UPRIGHT + r"([^{}]*)\}")
_THREE = frozenset(
    [
        "men",
        "cat",
        "dog",
        "car",
        "pen",
        "box",
        "cup",
        "day",
        "way",
        "bus",
        "egg",
        "toy",
        "hat",
        "bag",
        "boy",
        "man",
        "kid",
        "fan",
        "bee",
        "cow",
        "pig",
        "hen",
        "ant",
        "key",
        "map",
        "row",
        "dot",
        "arc",
        "fly",
        "fox",
        "owl",
        "bat",
        "bar",
        "can",
        "jar",
        "pie",
        "pea",
        "nut",
        "fig",
        "ice",
        "bed",
        "sun",
        "oil",
        "gas",
        "job",
        "win",
        "net",
        "lap",
        "set",
        "one",
        "red",
        "tie",
        "bit",
        "kit",
        "art",
        "ink",
        "age",
        "tin",
        "pot",
        "pan",
        "mug",
        "lid",
        "log",
        "leg",
        "arm",
        "eye",
        "ear",
        "lip",
        "toe",
        "gem",
        "oar",
        "oak",
        "elm",
        "ash",
        "web",
        "zoo",
        "van",
        "cab",
        "jet",
        "sub",
        "bot",
        "bug",
        "rat",
        "elk",
    ]
)


def _quantity(text: str) -> Node:
    """An expression, with the unit that stands before or behind it."""
    money = _MONEY.match(text)
    unit: Unit | None = None
    if money:
        sign = money[2].lstrip("\\").rstrip(".")
        unit = Unit(((NAMES.get(sign, NAMES.get(sign.lower(), "$")), 1),))
        text = money[1] + text[money.end() :]
    for match in _TAIL.finditer(text):
        at = match.start()
        if at == 0 or not _ENDS.search(text, 0, at) or not _closed(text, at):
            continue
        tail = text[at:]
        if (
            match["word"]
            and match["word"] in _MATH_WORDS
            and match["word"] not in ("degree", "degrees", "min")
        ):
            continue
        if match["sign"] and _ANGLED.search(text, 0, at) and not tail.endswith("%"):
            continue  # the degrees of `\sin 30^\circ` belong to its argument
        found = _unit(tail, bool(match["up"]), text[at - 1].isspace())
        if found is None:
            continue
        scale, behind = found
        node = expression(text[:at])
        if scale != 1:
            node = ("mul", node, ("num", Fraction(scale), None))
        if unit and behind.powers and behind != unit and behind.noun == ():
            raise Unreadable("two units")
        unit = unit if unit and not behind.powers else behind
        return ("qty", node, unit) if unit != units.NONE else node
    point = _POINT.match(text)
    node = expression(text[point.end() :] if point else text)
    return ("qty", node, unit) if unit else node


_POINT = re.compile(r"^(?:\\text\{)?[A-Z]'?\}?\s*(?=\([^()]*,[^()]*\)$)")  # the point A(3, -2)


def _closed(text: str, at: int) -> bool:
    depth = 0
    for match in _OPEN.finditer(text, 0, at):
        depth += 1 if match[0][-1] in "({[" else -1
    return depth == 0


def _unit(tail: str, upright: bool, spaced: bool) -> tuple[int, Unit] | None:
    """(scale, unit) of what stands behind a number; None if it is not a unit."""
    plain = _FONT.sub(r" \1 ", tail)
    plain = re.sub(r"\^\s*\{?\s*\\circ\s*\}?", "°", plain).replace("\\degree", "°")
    plain = (
        plain.replace("\\%", "%").replace("\\$", "$").replace("\\cdot", "·").replace("\\Omega", "Ω")
    )
    plain = re.sub(r"\\mu\s*", "µ", plain)
    plain = " ".join(plain.replace("° C", "°C").replace("° F", "°F").split())
    if plain in ("%", "percent", "per cent", "percentage", "pct", "pct.", "％", "% percent"):
        return 1, units.PERCENT
    scale = 1
    head, _, rest = plain.partition(" ")
    while head.lower().rstrip("s.") in _SCALES or head in _SCALES:
        scale *= _SCALES.get(head.lower().rstrip("s."), 0) or _SCALES[head]
        plain = rest
        head, _, rest = plain.partition(" ")
    if scale != 1 and not plain:
        return scale, units.NONE
    if plain.startswith("of "):
        return None
    if "\\" in plain:
        return None
    found = units.read(plain, upright or spaced)
    if found is None:
        return None
    if found.noun and not upright:
        if not spaced and plain.isascii():
            return None  # `12ab` is a product
        short = [word for word in found.noun if word.isascii() and len(word) < 4]
        first = plain.split()[0].lower()
        if short and not (set(found.noun) & _THREE or len(first) > 3 or first in _THREE):
            return None
        if not any(set("aeiouy") & set(word) for word in found.noun) and plain.isascii():
            return None
    return scale, found
