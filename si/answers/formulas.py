"""Comparing mathematics: a small exact comparer for what makes up most references.

Two expressions are equal if their values are, exactly or to forty digits; with variables, if they
are so at several points. Lists and sets are compared without order but with multiplicity, tuples
in order, intervals and inequalities as sets of real numbers, equations up to a factor.
"""

from collections.abc import Sequence
from fractions import Fraction

from si.answers import units
from si.answers.case import DEFAULT, Policy, Tolerance
from si.answers.intervals import same_sets, to_set
from si.answers.spelling import TooBig, Unreadable
from si.answers.tokens import Node
from si.answers.units import NONE, PERCENT, Unit
from si.answers.values import Value, evaluate, has, near, real, sample, variables

POINTS = 3
FLOAT_DIGITS = 10  # a decimal of so many digits may be a value's rounding


class Comparer:
    """Compares answers with references under one policy.

    Attributes:
        rule: the rule that decided the last comparison.
    """

    def __init__(self, policy: Policy = DEFAULT, tolerance: Tolerance | None = None):
        self.policy = policy
        self.tolerance = policy.tolerance if tolerance is None else tolerance
        self.rule = "none"

    def same(self, reference: Node, answer: Node) -> bool:
        """Whether an answer is the reference.

        Raises:
            Unreadable: if these rules cannot tell.
            TooBig: if numbers get too big.
        """
        self.rule = "formula"
        return self._same(_spread(reference), _spread(answer))

    def _same(self, one: Node, other: Node) -> bool:
        if one == other:
            return True
        kinds = one[0], other[0]
        if _equations(one) and other[0] == "group":
            return self._in_order(one[1], other[3])
        if one[0] == "list" and _relations(one) and (_set_like(other) or _relations(other)):
            if self._real_sets(one, other):
                return True
            return other[0] == "list" and self._several(one, other)
        if other[0] == "list" and _relations(other) and _set_like(one):
            if one[0] == "group" and _equations(other):
                return self._in_order(one[3], other[1])
            return self._real_sets(one, other)
        if one[0] in ("list", "set"):
            return self._several(one, other)
        if "rel" in kinds:
            return self._relation(one, other)
        if kinds == ("group", "group"):
            return self._groups(one, other)
        if one[0] == "group" and other[0] == "list":
            self.rule = "tuple"
            return one[1] == "(" and one[2] == ")" and self._in_order(one[3], other[1])
        if set(kinds) & {"union", "minus", "group"}:
            return self._real_sets(one, other)
        if other[0] == "set":
            return len(other[1]) == 1 and self._same(one, other[1][0])
        if other[0] == "list":
            return False
        if "matrix" in kinds:
            return one[0] == other[0] and self._matrix(one, other)
        return self._scalar(one, other)

    # -- several values

    def _several(self, one: Node, other: Node) -> bool:
        self.rule = "set"
        if other[0] == "rel":
            value = _values(other)
            return any(self._several(one, each) for each in value or ())
        if other[0] == "group":
            self.rule = "tuple"
            plain = one[0] == "list" and other[1] == "(" and other[2] == ")"
            return plain and self._in_order(one[1], other[3])
        if other[0] not in ("list", "set"):
            return len(one[1]) == 1 and self._same(one[1][0], other)
        wanted, given = list(one[1]), list(other[1])
        if len(wanted) != len(given):
            return False
        if _relations(one) and not _relations(other):
            return self._in_order(wanted, given)
        for item in wanted:
            at = next((i for i, each in enumerate(given) if self._same(item, each)), None)
            if at is None:
                self.rule = "set"
                return False
            given.pop(at)
        self.rule = "set"
        return True

    def _in_order(self, wanted: Sequence[Node], given: Sequence[Node]) -> bool:
        equal = len(wanted) == len(given) and all(map(self._same, wanted, given))
        self.rule = "tuple"
        return equal

    def _groups(self, one: Node, other: Node) -> bool:
        if one[1:3] != other[1:3]:
            self.rule = "interval"
            return False
        equal = self._in_order(one[3], other[3])
        self.rule = (
            "interval"
            if "[" in one[1:3] or "]" in one[1:3] or has(one, "const", "inf")
            else "tuple"
        )
        return equal

    def _matrix(self, one: Node, other: Node) -> bool:
        return len(one[1]) == len(other[1]) and all(map(self._in_order, one[1], other[1]))

    def _real_sets(self, one: Node, other: Node) -> bool:
        self.rule = "interval"
        try:
            return same_sets(to_set(one), to_set(other))
        except Unreadable:
            return False

    # -- relations

    def _relation(self, one: Node, other: Node) -> bool:
        if one[0] == "rel" and other[0] == "rel":
            return self._both(one, other)
        relation, plain = (one, other) if one[0] == "rel" else (other, one)
        if relation[2][0] == "in":
            return len(relation[1]) == 2 and self._ordered(relation is one, relation[1][1], plain)
        values = _values(relation)
        if values is not None:
            return any(self._ordered(relation is one, value, plain) for value in values)
        if _set_like(plain):
            return self._real_sets(one, other)
        return False

    def _ordered(self, first: bool, value: Node, plain: Node) -> bool:
        return self._same(value, plain) if first else self._same(plain, value)

    def _both(self, one: Node, other: Node) -> bool:
        self.rule = "equation"
        kinds = {one[2][0] == "in", other[2][0] == "in"}
        if kinds == {True, False}:
            return self._real_sets(one, other)
        if kinds == {True}:
            return self._same(one[1][1], other[1][1])
        equation, equation_ = _equation(one), _equation(other)
        if equation and equation_:
            (left, right), (left_, right_) = equation, equation_
            named = one[3][0] and other[3][0]
            if named and (left == left_ or _functions(left, left_, right, right_)):
                equal = self._same(right, right_)
                self.rule = "equation"
                return equal
            return self._proportional(left, right, left_, right_, signed=False)
        if equation or equation_ or variables(one) != variables(other):
            return False
        if self._real_sets(one, other):
            return True
        self.rule = "equation"
        if len(one[2]) == len(other[2]) == 1:
            ops = one[2][0], other[2][0]
            flipped = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
            if ops[0] == ops[1]:
                return self._proportional(*one[1], *other[1], signed=True)
            if flipped.get(ops[0]) == ops[1]:
                return self._proportional(*one[1], *reversed(other[1]), signed=True)
        return False

    def _proportional(self, a: Node, b: Node, c: Node, d: Node, *, signed: bool) -> bool:
        """Whether a - b is c - d times a number (which is positive, if signed)."""
        if any(each[0] in ("group", "set", "list", "union") for each in (a, b, c, d)):
            return self._same(a, c) and self._same(b, d)
        a, b, c, d = (each[1] if each[0] == "qty" else each for each in (a, b, c, d))
        names = variables(a) | variables(b)
        if names != variables(c) | variables(d):
            return False
        ratio: Value = None
        for number in range(1, POINTS + 2):
            point = {name: sample(name, number) for name in names}
            one = _minus(evaluate(a, point), evaluate(b, point))
            other = _minus(evaluate(c, point), evaluate(d, point))
            if not one or not other:
                return False
            if not (isinstance(one, Fraction) and isinstance(other, Fraction)):
                one, other = real(one), real(other)
            now = one / other
            if ratio is not None and not near(ratio, now):
                return False
            ratio = now
        return not signed or bool(real(ratio).real > 0)

    # -- one value

    def _scalar(self, one: Node, other: Node) -> bool:
        node, unit = (one[1], one[2]) if one[0] == "qty" else (one, NONE)
        node_, unit_ = (other[1], other[2]) if other[0] == "qty" else (other, NONE)
        factor: Fraction | None = Fraction(1)
        if self.policy.units == "strict" and not units.agree(unit, unit_):
            factor = self._converted(unit, unit_)
            if factor is None:
                self.rule = "unit"
                return (
                    self._percent(node, unit, node_, unit_) if PERCENT in (unit, unit_) else False
                )
        if (unit == PERCENT) != (unit_ == PERCENT):
            return self._percent(node, unit, node_, unit_)
        equal = self._equal(node, node_, factor or Fraction(1))
        if equal and (unit.powers or unit.noun) and (unit_.powers or unit_.noun):
            self.rule = "unit" if self.rule == "number" and unit != unit_ else self.rule
        return equal

    def _converted(self, unit: Unit, unit_: Unit) -> Fraction | None:
        return units.factor(unit_, unit) if self.policy.convert else None

    def _percent(self, node: Node, unit: Unit, node_: Node, unit_: Unit) -> bool:
        """`50%` equals 0.5 and, since questions ask "what percentage", 50."""
        if unit != PERCENT and (unit.powers or unit.noun):
            return False
        if unit_ != PERCENT and (unit_.powers or unit_.noun):
            return False
        if unit == PERCENT:
            equal = self._equal(node, node_, Fraction(1)) or self._equal(node, node_, Fraction(100))
        else:
            equal = self._equal(node, node_, Fraction(1)) or self._equal(
                node, node_, Fraction(1, 100)
            )
        self.rule = "percent"
        return equal

    def _equal(self, one: Node, other: Node, factor: Fraction) -> bool:
        plain = one[0] == "num" and other[0] == "num"
        self.rule = "number" if plain else "formula"
        if one == other and factor == 1:
            return True
        if "base" in (one[0], other[0]):
            return one == other
        if has(one, "const", "inf") or has(other, "const", "inf"):
            return one == other
        names = variables(one) | variables(other)
        if not names:
            return self._values_equal(one, other, factor)
        signs = has(one, "fn", "abs") != has(other, "fn", "abs")
        whole = any(has(each, "fact") or has(each, "fn", "binom") for each in (one, other))
        for number in range(1, POINTS + (4 if signs else 1)):
            point = {name: sample(name, number) for name in names}
            if whole:
                point = {
                    name: Fraction(abs(value.numerator) % 17 + 3) for name, value in point.items()
                }
            value, value_ = evaluate(one, point), evaluate(other, point)
            if factor != 1:
                value_ = value_ * factor if isinstance(value_, Fraction) else value_ * real(factor)
            if not near(value, value_):
                return False
        return True

    def _values_equal(self, one: Node, other: Node, factor: Fraction) -> bool:
        value, value_ = evaluate(one), evaluate(other)
        if factor != 1:
            value_ = value_ * factor if isinstance(value_, Fraction) else value_ * real(factor)
        if isinstance(value, Fraction) and isinstance(value_, Fraction):
            self.rule = "number"
        if near(value, value_):
            return True
        pair = _fractions(value, value_) if self.tolerance else None
        if pair and self.tolerance.allows(pair[1], pair[0]):
            self.rule = "tolerance"
            return True
        if factor == 1:
            return _rounded(one, value_) or _rounded(other, value)
        return False


def _minus(one: Value, other: Value) -> Value:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one - other
    made = real(one) - real(other)
    return 0 if abs(made) < 1e-45 else made


def _fractions(*values: Value) -> list[Fraction] | None:
    made = []
    for value in values:
        if not isinstance(value, Fraction):
            if getattr(value, "imag", 0):
                return None
            man, exp = value.real.man_exp
            if abs(exp) > 4000:
                return None
            value = Fraction(man) * Fraction(2) ** exp
        made.append(value)
    return made


def _rounded(node: Node, value: Value) -> bool:
    """Whether a decimal of many digits is the rounding of a value that has no finite decimal."""
    node = node[1] if node[0] == "neg" else node
    if node[0] != "num" or (node[2] or 0) < FLOAT_DIGITS:
        return False
    if isinstance(value, Fraction):
        bottom = value.denominator
        for prime in (2, 5):
            while bottom % prime == 0:
                bottom //= prime
        if bottom == 1:
            return False
    pair = _fractions(abs(value))
    if pair is None or not node[1]:
        return False
    step = Fraction(1)
    # One unit of the last place: a rounded or a cut decimal.
    digits = node[2]
    size = node[1]
    while size >= 10:
        size, step = size / 10, step * 10
    while size < 1:
        size, step = size * 10, step / 10
    return bool(abs(pair[0] - node[1]) <= step / Fraction(10) ** (digits - 1))


def _spread(node: Node) -> Node:
    """Plus-minus signs as two values; one element alone as itself."""
    if node[0] == "list":
        items: list[Node] = []
        for each in node[1]:
            made = _spread(each)
            items += made[1] if made[0] == "list" else (made,)
        return ("list", tuple(items), node[2])
    if node[0] == "set":
        items = []
        for each in node[1]:
            made = _spread(each)
            items += made[1] if made[0] == "list" else (made,)
        return ("set", tuple(items))
    if has(node, "pm"):
        return ("list", (_signed(node, 1), _signed(node, -1)), "or")
    return node


def _signed(node: Node, sign: int) -> Node:
    if node[0] == "pm":
        inner = _signed(node[1], sign)
        return inner if node[2] * sign > 0 else ("neg", inner)
    return tuple(_signed_part(part, sign) for part in node)


def _signed_part(part: object, sign: int) -> object:
    if isinstance(part, tuple) and part:
        if isinstance(part[0], str):
            return _signed(part, sign)
        return tuple(_signed_part(each, sign) for each in part)
    return part


def _relations(node: Node) -> bool:
    return node[0] == "rel" or (node[0] == "list" and all(each[0] == "rel" for each in node[1]))


def _equations(node: Node) -> bool:
    """Whether a list holds nothing but equations: `x = 1, y = 2`."""
    return node[0] == "list" and all(e[0] == "rel" and set(e[2]) == {"="} for e in node[1])


def _set_like(node: Node) -> bool:
    return node[0] in ("union", "minus", "group") or node == ("var", "mathbb R")


def _functions(left: Node, left_: Node, right: Node, right_: Node) -> bool:
    """Whether the left sides of two equations are names of one function of the right sides'
    variables: `y` and `f(x)`."""
    names = variables(right)
    applied = [
        each[0] == "mul"
        and each[1][0] in ("var", "pow")
        and each[2][0] == "var"
        and each[2][1] in names
        for each in (left, left_)
    ]
    plain = [each == ("var", "y") and "y" not in names for each in (left, left_)]
    return (
        names == variables(right_)
        and any(applied)
        and all(a or b for a, b in zip(applied, plain, strict=True))
    )


def _equation(node: Node) -> tuple[Node, Node] | None:
    """Left and right side; of a chain the first and the last."""
    return (node[1][0], node[1][-1]) if set(node[2]) == {"="} else None


def _values(relation: Node) -> list[Node] | None:
    """What a chain such as `x = 2 + 3 = 5` says its name is; None if it is not such a chain.

    A chain that contradicts itself (`13 = 12`) has no value.
    """
    _, sides, operators, names = relation
    if not set(operators) <= {"=", "~"}:
        return None
    start = 0
    while start < len(sides) - 1 and names[start]:
        start += 1
    rest, between = list(sides[start:]), list(operators[start:])
    if len(rest) > 1 and names[-1] and start == 0:
        rest, between = rest[:-1], between[:-1]
    if len(rest) == 1:
        return rest
    constant = [not variables(side) for side in rest]
    if start and constant[-1]:  # `A = \pi r^2 = 25\pi`
        kept = [i for i, each in enumerate(constant) if each]
        between = [between[i - 1] for i in kept[1:]]
        rest, constant = [rest[i] for i in kept], [True] * len(kept)
    comparer = Comparer(Policy(units="ignore"))
    for left, right, how in zip(rest, rest[1:], between, strict=False):
        about = _about(left, right, how) or _about(right, left, how)
        if not (about or comparer.same(left, right)):
            return [] if all(constant) else None
    return rest


def _about(exact: Node, decimal: Node, how: str) -> bool:
    """Whether a decimal is a value's rounding to the decimals that it has, or nearly."""
    exact = exact[1] if exact[0] == "qty" else exact
    decimal = decimal[1] if decimal[0] == "qty" else decimal
    if variables(exact) or variables(decimal) or decimal[0] not in ("num", "neg"):
        return False
    pair = _fractions(evaluate(exact), evaluate(decimal))
    literal = decimal[1] if decimal[0] == "neg" else decimal
    if pair is None or literal[0] != "num":
        return False
    places, value = 0, literal[1]
    while (value * 10**places).denominator != 1 and places < 40:
        places += 1
    if how == "=" and not places:
        return pair[0] == pair[1]
    return abs(pair[0] - pair[1]) <= Fraction(1, 10**places)


__all__ = ["Comparer", "TooBig", "Unreadable"]
