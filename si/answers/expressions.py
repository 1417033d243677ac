r"""Reading one expression: recursive descent over numbers, letters, commands and brackets."""

from collections.abc import Callable
from fractions import Fraction

from si.answers.spelling import Unreadable
from si.answers.tokens import (
    CONSTANTS,
    DECORATED,
    FUNCTIONS,
    GREEK,
    TRIG,
    Node,
    Tokens,
    number,
)


def expression(text: str) -> Node:
    """The tree of one expression, as `si.answers.grammar` describes it.

    Raises:
        Unreadable: if it is not an expression.
        TooBig: if it is too long or too deep.
    """
    return _Parser(text).whole()


class _Parser(Tokens):
    """Recursive descent over one expression."""

    # -- rules

    def whole(self) -> Node:
        node = self.sum()
        if self.at < len(self.tokens):
            raise Unreadable(f"{self.peek()[:10]!r} is unexpected")
        return node

    def sum(self) -> Node:
        terms = [self.term()]
        while True:
            if self.sign("+"):
                self.take()
                terms.append(self.term())
            elif self.sign("-"):
                self.take()
                terms.append(("neg", self.term()))
            elif self.command("pm", "mp"):
                sign = 1 if self.take() == "pm" else -1
                terms.append(("pm", self.term(), sign))
            else:
                return terms[0] if len(terms) == 1 else ("add", *terms)

    def term(self) -> Node:
        node = self.factor()
        while True:
            if self.sign("*") or self.command("cdot", "times"):
                self.take()
                node = _scaled(node, self.factor())
            elif self.sign("/") or self.command("div"):
                self.take()
                node = ("div", node, self.factor())
            elif self.starts():
                if self.kind() == "number" and node[0] == "num":
                    node = self.mixed(node)
                    continue
                if self.kind() == "number" and node[0] == "neg" and node[1][0] == "num":
                    node = ("neg", self.mixed(node[1]))
                    continue
                right = self.power()
                node = _joined(node, right)
            else:
                return node

    def mixed(self, whole: Node) -> Node:
        """`1 1/2`: a whole number, then a fraction of whole numbers."""
        top = number(self.take())
        if not self.sign("/"):
            raise Unreadable("two numbers side by side")
        self.take()
        if self.kind() != "number":
            raise Unreadable("two numbers side by side")
        bottom = number(self.take())
        if (
            any(n[1].denominator != 1 or n[2] for n in (whole, top, bottom))
            or not bottom[1]
            or top[1] >= bottom[1]
        ):
            raise Unreadable("two numbers side by side")
        return ("num", whole[1] + top[1] / bottom[1], None)

    def starts(self) -> bool:
        """Whether an operand starts here, which is then multiplied."""
        if self.kind() in ("number", "word"):
            return True
        if self.kind() == "command":
            return self.peek() not in (
                "}",
                "rfloor",
                "rceil",
                "rangle",
                "rvert",
                "cdot",
                "times",
                "div",
                "pm",
                "mp",
                "|",
                "%",
                "end",
            )
        return self.sign("(", "[", "{")

    def factor(self) -> Node:
        if self.sign("-"):
            self.take()
            return ("neg", self.deeper(self.factor))
        if self.sign("+"):
            self.take()
            return self.deeper(self.factor)
        if self.command("pm", "mp"):
            sign = 1 if self.take() == "pm" else -1
            return ("pm", self.deeper(self.factor), sign)
        return self.power()

    def power(self) -> Node:
        node = self.postfix(self.atom())
        if self.sign("^", "**"):
            self.take()
            if self.command("circ", "degree"):
                self.take()
                return self.postfix(("deg", node))
            if self.sign("'"):
                raise Unreadable("a prime")
            exponent = self.deeper(self.script)
            if exponent == ("circ",):
                return self.postfix(("deg", node))
            node = self.postfix(("pow", node, exponent))
        return node

    def postfix(self, node: Node) -> Node:
        while True:
            if self.sign("!"):
                self.take()
                node = ("fact", node)
            elif self.sign("%") or self.command("%"):
                self.take()
                node = ("pct", node)
            elif self.sign("°") or self.command("degree"):
                self.take()
                node = ("deg", node)
            else:
                return node

    def script(self) -> Node:
        """An exponent or index: a group, or one sign with its minus."""
        if self.sign("{"):
            if self.tokens[self.at + 1 : self.at + 3] == ["circ", "}"]:
                self.at += 3
                return ("circ",)
            return self.group("{", "}")
        if self.sign("-", "+"):
            negative = self.take() == "-"
            node = self.script()
            return ("neg", node) if negative else node
        if self.kind() == "number" and not self.spaces[self.at]:
            return number(self.take())
        if self.sign("("):
            return self.atom()
        return self.power()

    def group(self, opening: str, closing: str) -> Node:
        self.expect(opening)
        node = self.deeper(self.sum)
        self.expect(closing)
        return node

    def atom(self) -> Node:
        kind = self.kind()
        if kind == "number":
            return self.literal()
        if kind == "word":
            return self.variable(self.take())
        if kind == "sign":
            return self.bracket()
        if kind == "command":
            return self.deeper(self.special)
        raise Unreadable("an operand is missing")

    def literal(self) -> Node:
        token = self.take()
        node = number(token)
        if self.command("overline", "bar", "dot") and "." in token:  # 0.1\overline{6}
            self.take()
            digits = self.raw()
            if not digits.isdigit() or len(digits) > 30:
                raise Unreadable("a repeating part")
            places = len(token.partition(".")[2])
            repeated = Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)
            return ("num", node[1] + repeated, None)
        if self.sign("_"):
            self.take()
            base = self.raw()
            digits = token
            if (
                not base.isdigit()
                or not 2 <= int(base[:3]) <= 36
                or not digits.isdigit()
                or len(digits) > 60
            ):
                raise Unreadable("a base")
            if any(int(digit) >= int(base) for digit in digits):
                raise Unreadable("a digit beyond its base")
            value = Fraction(int(digits, int(base)))
            return ("num", value, None) if base == "10" else ("base", value, int(base))
        return node

    def variable(self, name: str) -> Node:
        if self.sign("_"):
            self.take()
            name += "_" + self.raw()
        while self.sign("'"):
            self.take()
            name += "'"
        return ("const", CONSTANTS[name]) if name in CONSTANTS else ("var", name)

    def bracket(self) -> Node:
        opening = self.take()
        if opening == "|":
            node = self.deeper(self.sum)
            self.expect("|")
            return ("fn", "abs", node)
        if opening == "{":
            node = self.deeper(self.sum)
            self.expect("}")
            return node
        if opening not in ("(", "["):
            raise Unreadable(f"{opening!r} is unexpected")
        items: tuple[Node, ...] = self.deeper(self.items)[1]
        closing = self.take()
        if closing not in (")", "]"):
            raise Unreadable("a bracket stays open")
        if len(items) == 1:
            if (opening, closing) not in (("(", ")"), ("[", "]")):
                raise Unreadable("brackets that do not fit")
            return items[0]
        return ("group", opening, closing, items)

    def items(self) -> Node:
        made = [self.sum()]
        while self.sign(","):
            self.take()
            made.append(self.sum())
        return ("list", tuple(made))

    def special(self) -> Node:
        name = self.take()
        if name in FUNCTIONS:
            return self.function(name)
        if name in CONSTANTS:
            return ("const", CONSTANTS[name])
        if name in GREEK:
            return self.variable(name)
        rule = _SPECIAL.get(name)
        if rule:
            return rule(self)
        if name in DECORATED:
            inner = self.raw()
            if not inner.replace(" ", "").isalnum():
                raise Unreadable(f"\\{name}")
            plain = name in ("text", "mathrm", "mathbf", "boldsymbol", "textbf")
            if plain and inner in CONSTANTS:
                return ("const", CONSTANTS[inner])
            return self.variable(inner if plain and len(inner) == 1 else f"{name} {inner}")
        raise Unreadable(f"\\{name}")

    def function(self, name: str) -> Node:
        if name == "sqrt":
            return self.root()
        base: Node | None = None
        exponent: Node | None = None
        for _ in range(2):
            if name == "log" and self.sign("_"):
                self.take()
                base = self.deeper(self.script)
            elif self.sign("^"):
                self.take()
                exponent = self.deeper(self.script)
        if self.sign("("):
            argument = self.atom()
        elif self.sign("{"):
            argument = self.group("{", "}")
        else:
            argument = self.argument()
        arguments = argument[3] if argument[0] == "group" else (argument,)
        if exponent == ("neg", ("num", Fraction(1), None)) and name in TRIG:
            name, exponent = "arc" + name, None
        node: Node = ("fn", name, *arguments, base) if base else ("fn", name, *arguments)
        return ("pow", node, exponent) if exponent else node

    def argument(self) -> Node:
        """A function's argument without brackets: a product, up to the next function or sign."""
        if self.sign("-"):
            self.take()
            return ("neg", self.argument())
        node = self.deeper(self.power)
        while self.starts() and not self.command(*FUNCTIONS) and not self.sign("(", "["):
            if self.kind() == "number" and node[0] == "num":
                break
            node = _joined(node, self.power())
        if (
            self.sign("/")
            and self.at + 1 < len(self.tokens)
            and self.kinds[self.at + 1] == "number"
        ):
            self.take()
            node = ("div", node, self.power())
        return node

    def root(self) -> Node:
        degree: Node = ("num", Fraction(2), None)
        if self.sign("["):
            self.take()
            degree = self.deeper(self.sum)
            self.expect("]")
        if self.sign("{"):
            inside = self.group("{", "}")
        elif (
            self.kind() == "number"
            and "\\" in self.text
            and len(self.peek()) > 1
            and not self.spaces[self.at]
        ):
            inside = number(self.take())
        else:
            inside = self.atom()
        if inside[0] in ("group", "matrix"):
            raise Unreadable("a root of several")
        return ("fn", "root", inside, degree)

    # -- commands

    def fraction(self) -> Node:
        return ("div", self.piece(), self.piece())

    def piece(self) -> Node:
        """An argument of a command: a group, one digit or one letter."""
        if self.sign("{"):
            return self.group("{", "}")
        if self.kind() == "number":
            token = self.peek()
            if len(token) > 1 and token.isdigit():
                self.tokens[self.at] = token[1:]
                return number(token[0])
            return number(self.take())
        return self.atom()

    def binomial(self) -> Node:
        return ("fn", "binom", self.piece(), self.piece())

    def curly(self) -> Node:
        if self.command("}"):
            self.take()
            return ("set", ())
        items = self.deeper(self.items)[1]
        if not self.command("}"):
            raise Unreadable("a set stays open")
        self.take()
        return ("set", items)

    def between(self, closing: str, name: str) -> Node:
        node = self.deeper(self.sum)
        if not self.command(closing):
            raise Unreadable(f"\\{closing} is missing")
        self.take()
        return ("fn", name, node)

    def angled(self) -> Node:
        items = self.deeper(self.items)[1]
        if not self.command("rangle"):
            raise Unreadable("\\rangle is missing")
        self.take()
        return ("group", "(", ")", items)


_SPECIAL: dict[str, Callable[[_Parser], Node]] = {
    "frac": _Parser.fraction,
    "binom": _Parser.binomial,
    "{": _Parser.curly,
    "lfloor": lambda parser: parser.between("rfloor", "floor"),
    "lceil": lambda parser: parser.between("rceil", "ceil"),
    "lvert": lambda parser: parser.between("rvert", "abs"),
    "langle": _Parser.angled,
    "emptyset": lambda _: ("set", ()),
}


def _scaled(left: Node, right: Node) -> Node:
    """A product; a decimal times a power of ten stays a decimal of as many digits."""
    if left[0] == "num" and left[2] and right[0] == "pow" and right[1][:2] == ("num", Fraction(10)):
        sign, power = (-1, right[2][1]) if right[2][0] == "neg" else (1, right[2])
        if power[0] == "num" and power[1].denominator == 1 and power[1] <= 400:
            return ("num", left[1] * Fraction(10) ** int(sign * power[1]), left[2])
    return ("mul", left, right)


def _joined(left: Node, right: Node) -> Node:
    """Two operands side by side: a product, or a mixed number such as `1\\frac{1}{2}`."""
    if left[0] == "neg" and left[1][0] == "num" and right[0] == "div":
        mixed = _joined(left[1], right)
        return ("neg", mixed)
    if left[0] == "num" and left[2] is None and right[0] == "div":
        top, bottom = right[1], right[2]
        whole = all(
            n[0] == "num" and n[1].denominator == 1 and n[2] is None for n in (left, top, bottom)
        )
        if whole and 0 < top[1] < bottom[1]:
            return ("num", left[1] + top[1] / bottom[1], None)
    if right[0] in ("group", "set", "matrix") or left[0] in ("group", "set"):
        raise Unreadable("a product of several")
    return ("mul", left, right)
