"""The tokens of an expression: numbers, words, commands and signs."""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from si.answers.spelling import LONGEST, TooBig, Unreadable

Node = tuple[Any, ...]
DEEPEST = 40  # brackets within brackets
FUNCTIONS = [
    "arcsin",
    "arccos",
    "arctan",
    "arccot",
    "sinh",
    "cosh",
    "tanh",
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "log",
    "ln",
    "lg",
    "exp",
    "sqrt",
    "abs",
    "floor",
    "ceil",
    "gcd",
    "lcm",
    "max",
    "min",
]
# Letters that are a word of a language, not a product of variables.
_WORDS = frozenset(
    [
        "no",
        "is",
        "of",
        "to",
        "in",
        "at",
        "on",
        "by",
        "us",
        "we",
        "me",
        "he",
        "it",
        "so",
        "do",
        "go",
        "up",
        "my",
        "be",
        "am",
        "pm",
        "the",
    ]
)
_ARGUMENTS = frozenset("xyztnabku")
_SPOKEN = re.compile(r"[a-z][aeiou]|[aeiou][a-z]")
TRIG = frozenset(["sin", "cos", "tan", "cot", "sec", "csc"])
CONSTANTS = {
    "pi": "pi",
    "e": "e",
    "i": "i",
    "infty": "inf",
    "infinity": "inf",
    "inf": "inf",
    "oo": "inf",
}
GREEK = frozenset(
    [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "varepsilon",
        "zeta",
        "eta",
        "theta",
        "vartheta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
        "xi",
        "rho",
        "sigma",
        "tau",
        "phi",
        "varphi",
        "chi",
        "psi",
        "omega",
        "Gamma",
        "Delta",
        "Theta",
        "Lambda",
        "Xi",
        "Sigma",
        "Phi",
        "Psi",
        "Omega",
        "ell",
        "hbar",
    ]
)
DECORATED = frozenset(
    [
        "vec",
        "hat",
        "bar",
        "overline",
        "tilde",
        "mathbf",
        "boldsymbol",
        "mathrm",
        "text",
        "textbf",
        "mathcal",
        "mathbb",
    ]
)
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.(?=\\(?:overline|bar))|\d+(?:\.\d+)?(?:[eE][+-]?\d{1,4}(?![\d.]))?|\d+\.(?!\d)|\.\d+)"
    r"|\\(?P<command>[a-zA-Z]+|[{}|%])|(?P<word>[A-Za-z]+)|(?P<sign>\*\*|[-+*/^_(){}\[\]|!%°,&'~]))",
    re.ASCII,
)


class Tokens:
    """The tokens of one expression, and where a reader stands in them."""

    def __init__(self, text: str, depth: int = 0):
        self.text, self.depth = text, depth
        self.kinds: list[str] = []
        self.tokens: list[str] = []
        self.spaces: list[bool] = []
        at, end = 0, len(text.rstrip())
        while at < end:
            match = _TOKEN.match(text, at, end)
            if match is None or match.end() == at:
                raise Unreadable(f"unknown sign {text[at : at + 8]!r}")
            kind = match.lastgroup or ""
            self._add(kind, match[kind], match.start(kind) > at)
            at = match.end()
        if len(self.tokens) > LONGEST:
            raise TooBig("too many signs")
        self.at = 0

    def _add(self, kind: str, token: str, space: bool) -> None:
        if kind == "word" and token.lower() in FUNCTIONS:
            kind, token = "command", token.lower()
        elif kind == "word" and token in CONSTANTS and len(token) > 1:
            kind = "command"
        elif kind == "word" and len(token) > 1:
            for name in (*FUNCTIONS, "pi"):  # "2sinx", "xpi"
                if token.startswith(name) and token[len(name) :] in _ARGUMENTS:
                    self._add("command", name, space)
                    self._add("word", token[len(name) :], False)
                    return
            if token.lower() in _WORDS or len(token) > 4 or _SPOKEN.search(token[1:]):
                raise Unreadable(f"the word {token[:20]!r}")
            for letter in token:
                self._add("word", letter, space)
            return
        self.kinds.append(kind)
        self.tokens.append(token)
        self.spaces.append(space)

    # -- tokens

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def kind(self) -> str:
        return self.kinds[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        if self.at >= len(self.tokens):
            raise Unreadable("it ends too soon")
        self.at += 1
        return self.tokens[self.at - 1]

    def sign(self, *signs: str) -> bool:
        return self.kind() == "sign" and self.peek() in signs

    def command(self, *names: str) -> bool:
        return self.kind() == "command" and self.peek() in names

    def expect(self, sign: str) -> None:
        if self.take() != sign:
            raise Unreadable(f"{sign} is missing")

    def deeper(self, rule: Callable[[], Node]) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise TooBig("too deep")
        node = rule()
        self.depth -= 1
        return node

    def raw(self) -> str:
        """The text of a group or of one sign, not read as mathematics."""
        if not self.sign("{", "("):
            return self.take()
        closing = "}" if self.take() == "{" else ")"
        made = ""
        while not self.sign(closing):
            made += self.take()
            if len(made) > 80:
                raise Unreadable("an index")
        self.take()
        return made


def number(token: str) -> Node:
    """A literal; the digits of a decimal are kept, since it may be a rounded value."""
    mantissa, _, power = token.lower().partition("e")
    whole, point, part = mantissa.partition(".")
    if len(mantissa) > 400:
        raise TooBig("too many digits")
    value = Fraction(int((whole + part) or "0"), 10 ** len(part))
    if power:
        if abs(int(power)) > 400:
            raise TooBig("too big a power of ten")
        value *= Fraction(10) ** int(power)
    digits = len((whole + part).lstrip("0")) if (point and part) or power else None
    return ("num", value, digits)
