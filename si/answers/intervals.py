"""Sets of real numbers: intervals, unions, single points and inequalities of one variable."""

from fractions import Fraction
from functools import cmp_to_key

from si.answers.spelling import Unreadable
from si.answers.tokens import Node
from si.answers.values import Value, evaluate, near, real, variables

# An interval: lower end, whether it belongs, upper end, whether it belongs. None is infinity.
Piece = tuple[Value, bool, Value, bool]
RealSet = list[Piece]
_EVERYTHING: Piece = (None, False, None, False)
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}


def to_set(node: Node) -> RealSet:
    """The set of real numbers that a tree describes, in normal form.

    Raises:
        Unreadable: if it does not describe one.
    """
    return _normal(_pieces(node))


def same_sets(one: RealSet, other: RealSet) -> bool:
    """Whether two sets in normal form are equal."""
    return len(one) == len(other) and all(
        a[1] == b[1] and a[3] == b[3] and _same_end(a[0], b[0]) and _same_end(a[2], b[2])
        for a, b in zip(one, other, strict=True)
    )


def _same_end(one: Value, other: Value) -> bool:
    if one is None or other is None:
        return one is other
    return near(one, other)


def _pieces(node: Node) -> RealSet:
    kind = node[0]
    if kind == "group" and len(node[3]) == 2:
        low, high = _end(node[3][0]), _end(node[3][1])
        return [
            (low, node[1] == "[" and low is not None, high, node[2] == "]" and high is not None)
        ]
    if kind == "union":
        return [piece for part in node[1:] for piece in _pieces(part)]
    if kind == "set":
        return [(value, True, value, True) for value in map(_point, node[1])]
    if kind == "minus":
        return _intersection(_normal(_pieces(node[1])), _complement(_normal(_pieces(node[2]))))
    if kind == "var" and node[1] in ("mathbb R", "R"):
        return [_EVERYTHING]
    if kind == "rel":
        return _relation(node)
    if kind == "list":
        sets = [_normal(_pieces(part)) for part in node[1]]
        if node[2] == "or":
            return [piece for part in sets for piece in part]
        common = sets[0]
        for part in sets[1:]:
            common = _intersection(common, part)
        if node[2] == "," and not common:  # "x < 1, x > 3"
            return [piece for part in sets for piece in part]
        return common
    raise Unreadable(f"a {kind} is not a set of numbers")


def _point(node: Node) -> Value:
    node = node[1] if node[0] == "qty" else node
    value = evaluate(node)
    if getattr(value, "imag", 0):
        raise Unreadable("not a real number")
    return value


def _end(node: Node) -> Value:
    inner = node[1] if node[0] == "neg" else node
    return None if inner == ("const", "inf") else _point(node)


def _relation(node: Node) -> RealSet:
    """An inequality or chain of them around one variable, or a membership."""
    _, sides, operators, _ = node
    if operators == ("in",) and sides[0][0] == "var":
        return _pieces(sides[1])
    if len(sides) == 2 and sides[0][:2] == ("fn", "abs") and operators[0] in ("<", "<="):
        return _absolute(sides[0][2], operators[0] == "<=", _end(sides[1]))
    at = [i for i, side in enumerate(sides) if side[0] == "var"]
    if (
        len(at) != 1
        or len(sides) > 3
        or any(variables(s) for i, s in enumerate(sides) if i != at[0])
    ):
        raise Unreadable("not an inequality of one variable")
    made: RealSet = [_EVERYTHING]
    for i, operator in enumerate(operators):
        if at[0] not in (i, i + 1) or operator not in _FLIPPED:
            raise Unreadable("not an inequality of one variable")
        other = sides[i + 1] if at[0] == i else sides[i]
        relation = operator if at[0] == i else _FLIPPED[operator]
        made = _intersection(made, _half(relation, other))
    return made


def _absolute(inside: Node, closed: bool, radius: Value) -> RealSet:
    """`|x - c| < r` as an interval."""
    centre: Value = Fraction(0)
    if inside[0] == "add" and len(inside) == 3 and inside[1][0] == "var":
        centre, inside = -evaluate(inside[2]), inside[1]
    if inside[0] != "var" or radius is None:
        raise Unreadable("not an inequality of one variable")
    return [(centre - radius, closed, centre + radius, closed)]


def _half(relation: str, bound: Node) -> RealSet:
    end = _end(bound)
    if end is None:
        return [_EVERYTHING]
    if relation == "=":
        return [(end, True, end, True)]
    if relation == "!=":
        return [(None, False, end, False), (end, False, None, False)]
    closed = relation.endswith("=")
    return [(None, False, end, closed)] if relation[0] == "<" else [(end, closed, None, False)]


# --- normal form ----------------------------------------------------------------------------


def _order(one: Value, other: Value) -> int:
    if near(one, other):
        return 0
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return -1 if one < other else 1
    return -1 if real(one).real < real(other).real else 1


def _lower(one: Piece, other: Piece) -> int:
    """Order of lower ends: minus infinity first, an end that belongs before one that does not."""
    if one[0] is None or other[0] is None:
        return (one[0] is not None) - (other[0] is not None)
    return _order(one[0], other[0]) or other[1] - one[1]


def _upper(one: Piece, other: Piece) -> int:
    if one[2] is None or other[2] is None:
        return (one[2] is None) - (other[2] is None)
    return _order(one[2], other[2]) or one[3] - other[3]


def _empty(piece: Piece) -> bool:
    low, low_in, high, high_in = piece
    if low is None or high is None:
        return False
    order = _order(low, high)
    return order > 0 or (order == 0 and not (low_in and high_in))


def _normal(pieces: RealSet) -> RealSet:
    made: RealSet = []
    for piece in sorted((p for p in pieces if not _empty(p)), key=cmp_to_key(_lower)):
        if made and _touch(made[-1], piece):
            last = made[-1]
            top = piece if _upper(piece, last) > 0 else last
            made[-1] = (last[0], last[1], top[2], top[3])
        else:
            made.append(piece)
    return made


def _touch(one: Piece, other: Piece) -> bool:
    if one[2] is None or other[0] is None:
        return True
    order = _order(one[2], other[0])
    return order > 0 or (order == 0 and (one[3] or other[1]))


def _intersection(one: RealSet, other: RealSet) -> RealSet:
    made = []
    for a in one:
        for b in other:
            low = a if _lower(a, b) > 0 else b
            high = a if _upper(a, b) < 0 else b
            piece = (low[0], low[1], high[2], high[3])
            if not _empty(piece):
                made.append(piece)
    return made


def _complement(pieces: RealSet) -> RealSet:
    made: RealSet = [_EVERYTHING]
    for low, low_in, high, high_in in pieces:
        outside: RealSet = []
        if low is not None:
            outside.append((None, False, low, not low_in))
        if high is not None:
            outside.append((high, not high_in, None, False))
        made = _intersection(made, outside)
    return made
