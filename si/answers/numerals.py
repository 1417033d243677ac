"""Numbers written as English words."""

import re
from fractions import Fraction

_ONES = {
    word: number
    for number, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ]
    )
}
_TENS = {
    word: 10 * number
    for number, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
PARTS = {
    **dict.fromkeys(("halves", "half"), 2),
    **dict.fromkeys(("third", "thirds"), 3),
    **dict.fromkeys(("quarter", "quarters", "fourth", "fourths"), 4),
    **dict.fromkeys(("fifth", "fifths"), 5),
    **dict.fromkeys(("sixth", "sixths"), 6),
    **dict.fromkeys(("eighth", "eighths"), 8),
    **dict.fromkeys(("tenth", "tenths"), 10),
}
_FRACTION = re.compile(rf"(?P<over>[a-z]+)[\s-](?P<under>{'|'.join(PARTS)})")
_WORD = re.compile(r"[a-z]+")


def numeral(text: str) -> Fraction | None:
    """The number that a text of number words says, and nothing else; None if it does not."""
    text = text.strip().strip(".").lower()
    if len(text) > 80 or not re.fullmatch(r"[a-z]+(?:[\s-]+[a-z]+)*", text):
        return None
    part = _FRACTION.fullmatch(text)
    if part:
        over, under = part["over"], part["under"]
        one = over == "one" or (over == "a" and under in ("half", "quarter"))
        many = over in _ONES and over != "one" and under.endswith("s")
        return Fraction(1 if one else _ONES[over], PARTS[under]) if one or many else None
    total, current, seen = 0, 0, False
    parts = _WORD.findall(text)
    negative = parts[0] in ("minus", "negative")
    for at, word in enumerate(parts[negative:]):
        if word in _ONES:
            if current % 100 and not (
                current % 10 == 0 and current % 100 >= 20 and _ONES[word] < 10
            ):
                return None
            current += _ONES[word]
        elif word in _TENS:
            if current % 100:
                return None
            current += _TENS[word]
        elif word == "hundred" and (current or not at):
            current = max(current, 1) * 100
        elif word in _SCALES and (current or not at):
            total, current = total + max(current, 1) * _SCALES[word], 0
        elif word == "and" and at and word != parts[-1]:
            continue
        else:
            return None
        seen = True
    value = total + current
    return Fraction(-value if negative else value) if seen else None
