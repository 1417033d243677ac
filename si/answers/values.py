"""The value of an expression: an exact fraction where it has one, else fifty digits.

Sizes are bounded before anything is computed, so that no input makes this slow.
"""

import math
import threading
import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from si.answers.spelling import TooBig, Unreadable
from si.answers.tokens import Node

BITS = 20_000  # of a whole number
LARGEST = 400  # argument of a factorial
Value = Any  # Fraction, or a number of mpmath
_DIGITS = 60
_local = threading.local()


def _mp() -> Any:
    """This thread's context of mpmath: contexts are not safe to share."""
    context = getattr(_local, "context", None)
    if context is None:
        from mpmath import MPContext  # type: ignore[import-untyped]

        context = MPContext()
        context.dps = _DIGITS
        _local.context = context
    return context


def real(value: Value) -> Any:
    """A value as a number of mpmath."""
    if isinstance(value, Fraction):
        mp = _mp()
        return mp.mpf(value.numerator) / value.denominator
    return value


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > BITS:
        raise TooBig("too big a number")
    return value


def _checked(value: Value) -> Value:
    """A value that is finite and whose magnitude can be worked with."""
    if isinstance(value, Fraction):
        return _bounded(value)
    mp = _mp()
    if not mp.isfinite(value):
        raise Unreadable("it has no finite value")
    if abs(mp.mag(value) if value else 0) > 1_000_000:
        raise TooBig("too big a number")
    if isinstance(value, mp.mpc) and abs(value.imag) <= mp.mpf(10) ** -50 * abs(value.real):
        return value.real
    return value


def evaluate(node: Node, point: Mapping[str, Fraction] = {}, sign: int = 1) -> Value:
    """The value of an expression.

    Args:
        point: the value of each variable.
        sign: 1 or -1, for plus-minus signs.

    Raises:
        Unreadable: if it has no one value: a structure, a division by zero.
        TooBig: if numbers get too big.
    """
    return _Evaluation(point, sign).value(node)


class _Evaluation:
    def __init__(self, point: Mapping[str, Fraction], sign: int):
        self.point, self.sign, self.angle = point, sign, False

    def value(self, node: Node) -> Value:
        rule = _RULES.get(node[0])
        if rule is None:
            raise Unreadable(f"a {node[0]} has no one value")
        return rule(self, node)

    def number(self, node: Node) -> Value:
        return node[1]

    def variable(self, node: Node) -> Value:
        try:
            return self.point[node[1]]
        except KeyError:
            raise Unreadable("a variable") from None

    def constant(self, node: Node) -> Value:
        mp = _mp()
        if node[1] == "inf":
            raise Unreadable("infinity is not a number")
        return +mp.pi if node[1] == "pi" else +mp.e if node[1] == "e" else mp.mpc(0, 1)

    def add(self, node: Node) -> Value:
        total = self.value(node[1])
        for part in node[2:]:
            total = _apply(total, self.value(part), lambda a, b: a + b)
        return total

    def multiply(self, node: Node) -> Value:
        return _apply(self.value(node[1]), self.value(node[2]), lambda a, b: a * b)

    def divide(self, node: Node) -> Value:
        bottom = self.value(node[2])
        if not bottom:
            raise Unreadable("a division by zero")
        return _apply(self.value(node[1]), bottom, lambda a, b: a / b)

    def negative(self, node: Node) -> Value:
        return -self.value(node[1])

    def plus_minus(self, node: Node) -> Value:
        return self.value(node[1]) * (node[2] * self.sign)

    def percent(self, node: Node) -> Value:
        return self.value(node[1]) / 100

    def degree(self, node: Node) -> Value:
        value = self.value(node[1])
        return real(value) * _mp().pi / 180 if self.angle else value

    def factorial(self, node: Node) -> Value:
        value = self.value(node[1])
        if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
            raise Unreadable("a factorial of what is not a whole number")
        if value > LARGEST:
            raise TooBig("too big a factorial")
        return Fraction(math.factorial(int(value)))

    def quantity(self, node: Node) -> Value:
        return self.value(node[1])

    def power(self, node: Node) -> Value:
        return power(self.value(node[1]), self.value(node[2]))

    def function(self, node: Node) -> Value:
        name = node[1]
        before = self.angle
        if name in _TRIG:
            self.angle = True
        values = [self.value(argument) for argument in node[2:]]
        self.angle = before
        rule = _FUNCTIONS.get(name)
        if rule is None or len(values) not in rule[1]:
            raise Unreadable(f"the function {name}")
        return _checked(rule[0](*values))


_TRIG = frozenset(["sin", "cos", "tan", "cot", "sec", "csc"])
_RULES: dict[str, Callable[[_Evaluation, Node], Value]] = {
    "num": _Evaluation.number,
    "var": _Evaluation.variable,
    "const": _Evaluation.constant,
    "add": _Evaluation.add,
    "mul": _Evaluation.multiply,
    "div": _Evaluation.divide,
    "neg": _Evaluation.negative,
    "pm": _Evaluation.plus_minus,
    "pct": _Evaluation.percent,
    "deg": _Evaluation.degree,
    "fact": _Evaluation.factorial,
    "pow": _Evaluation.power,
    "fn": _Evaluation.function,
    "qty": _Evaluation.quantity,
}


def _apply(one: Value, other: Value, rule: Callable[[Any, Any], Any]) -> Value:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return _bounded(rule(one, other))
    return _checked(rule(real(one), real(other)))


def power(base: Value, exponent: Value) -> Value:
    """`base` to the power of `exponent`, exact if both are integers or the root is rational."""
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        n = int(exponent)
        if not base and n <= 0:
            raise Unreadable("a power of zero")
        if isinstance(base, Fraction):
            bits = base.numerator.bit_length() + base.denominator.bit_length()
            if abs(n) > BITS or (bits > 2 and bits * abs(n) > BITS):
                raise TooBig("too big a power")
            return base**n
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if not base:
            return Fraction(0)
        if base > 0 and exponent.denominator <= 64:
            exact = _exact_root(base, exponent.denominator)
            if exact is not None:
                return power(exact, Fraction(exponent.numerator))
    mp = _mp()
    base, exponent = real(base), real(exponent)
    if not base:
        raise Unreadable("a power of zero")
    size = (abs(mp.mag(base)) + 8) * (abs(exponent) + 1)
    if size > 100_000:
        raise TooBig("too big a power")
    return _checked(base**exponent)


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    parts = []
    for whole in (value.numerator, value.denominator):
        root = math.isqrt(whole) if degree == 2 else _whole_root(whole, degree)
        if root**degree != whole:
            return None
        parts.append(root)
    return Fraction(parts[0], parts[1])


def _whole_root(whole: int, degree: int) -> int:
    low, high = 0, 1 << (whole.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        if middle**degree <= whole:
            low = middle
        else:
            high = middle - 1
    return low


def _root(value: Value, degree: Value) -> Value:
    if not isinstance(degree, Fraction) or degree.denominator != 1 or not 0 < degree <= 64:
        raise Unreadable("a root's degree")
    negative = isinstance(value, Fraction) and value < 0
    if negative and degree % 2:  # the real root: the cube root of -8 is -2
        return -power(-value, 1 / degree)
    return power(value, 1 / degree)


def _log(value: Value, base: Value | None = None) -> Value:
    if not value or (base is not None and (not base or base == 1)):
        raise Unreadable("a logarithm of zero")
    mp = _mp()
    if base is None:
        return mp.log(real(value))
    if isinstance(value, Fraction) and isinstance(base, Fraction) and value > 0 and base > 0:
        near = round(float(mp.log(real(value)) / mp.log(real(base))))
        if abs(near) < 1000 and power(base, Fraction(near)) == value:
            return Fraction(near)
    return mp.log(real(value)) / mp.log(real(base))


def _log10(value: Value, base: Value | None = None) -> Value:
    return _log(value, Fraction(10) if base is None else base)


def _binomial(n: Value, k: Value) -> Value:
    whole = all(isinstance(x, Fraction) and x.denominator == 1 and x >= 0 for x in (n, k))
    if not whole or n > 10 * LARGEST:
        raise TooBig("a binomial coefficient")
    return Fraction(math.comb(int(n), int(k)))


def _circular(name: str, inverse: bool = False) -> Callable[[Value], Value]:
    def rule(value: Value) -> Value:
        mp = _mp()
        value = real(value)
        if mp.mag(value) > 100:
            raise TooBig("too big an angle")
        made = getattr(mp, name)(value)
        if mp.mag(made) > 150:  # a pole that rounding missed
            raise Unreadable("it has no finite value")
        if abs(made) < mp.mpf(10) ** -52:
            return Fraction(0)
        return 1 / made if inverse else made

    return rule


def _rounding(rule: Callable[[Fraction], int]) -> Callable[[Value], Value]:
    def made(value: Value) -> Value:
        if not isinstance(value, Fraction):
            value = Fraction(str(_mp().nstr(value.real, 40)))
        return Fraction(rule(value))

    return made


def _whole(rule: Callable[..., int]) -> Callable[..., Value]:
    def made(*values: Value) -> Value:
        if any(not isinstance(v, Fraction) or v.denominator != 1 for v in values):
            raise Unreadable("a function of whole numbers")
        return Fraction(rule(*(int(v) for v in values)))

    return made


def _extreme(rule: Callable[..., Any]) -> Callable[..., Value]:
    return lambda *values: rule(values, key=lambda value: real(value).real)


_ANY = range(1, 9)
_FUNCTIONS: dict[str, tuple[Callable[..., Value], Any]] = {
    "root": (_root, (2,)),
    "abs": (abs, (1,)),
    "log": (_log10, (1, 2)),
    "lg": (_log10, (1,)),
    "ln": (_log, (1,)),
    "exp": (lambda value: power(+_mp().e, value), (1,)),
    "binom": (_binomial, (2,)),
    "floor": (_rounding(math.floor), (1,)),
    "ceil": (_rounding(math.ceil), (1,)),
    "gcd": (_whole(math.gcd), _ANY),
    "lcm": (_whole(math.lcm), _ANY),
    "max": (_extreme(max), _ANY),
    "min": (_extreme(min), _ANY),
    **{name: (_circular(name), (1,)) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{
        name: (_circular(of, inverse=True), (1,))
        for name, of in (("cot", "tan"), ("sec", "cos"), ("csc", "sin"))
    },
    **{"arc" + name: (_circular("a" + name), (1,)) for name in ("sin", "cos", "tan", "cot")},
}


# --- variables ------------------------------------------------------------------------------


def variables(node: Node) -> frozenset[str]:
    """Names of the variables of an expression."""
    if node[0] == "var":
        return frozenset((node[1],))
    found: frozenset[str] = frozenset()
    for part in node[1:]:
        if isinstance(part, tuple):
            if part and isinstance(part[0], str):
                found |= variables(part)
            else:
                for each in part:
                    if isinstance(each, tuple):
                        found |= variables(each)
    return found


def has(node: Node, kind: str, name: str | None = None) -> bool:
    """Whether a tree holds a node of a type (and, of functions, of a name)."""
    if node[0] == kind and (name is None or node[1] == name):
        return True
    for part in node[1:]:
        if isinstance(part, tuple) and part:
            inner = (part,) if isinstance(part[0], str) else part
            if any(isinstance(each, tuple) and each and has(each, kind, name) for each in inner):
                return True
    return False


@lru_cache(maxsize=4096)
def sample(name: str, number: int) -> Fraction:
    """A variable's value at the test point of a number: positive up to 3, of both signs above."""
    code = zlib.crc32(f"{name}/{number}".encode())
    value = Fraction(code % 89 + 12, (code >> 8) % 13 + 29)
    return -value if number > 3 and code >> 16 & 1 else value


def near(one: Value, other: Value) -> bool:
    """Whether two values are equal: exactly for fractions, else to forty digits."""
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    one, other = real(one), real(other)
    size = max(abs(one), abs(other))
    off = abs(one - other)
    return bool(off <= _mp().mpf(10) ** -40 * size or off <= _mp().mpf(10) ** -50)
