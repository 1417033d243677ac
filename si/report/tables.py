"""Tables and figures as text, for terminals, Markdown and pages."""

from typing import NamedTuple


class Table(NamedTuple):
    """A table to print anywhere: cells are text, the first column names the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


def percent(value: float | None) -> str:
    """0.4131 -> `41.3 %`; None -> a dash."""
    return "–" if value is None else f"{_hundred(value):.1f} %"


def points(difference: float | None) -> str:
    """0.013 -> `+1.3 points`."""
    return "–" if difference is None else f"{_hundred(difference):+.1f} points".replace("-", "−")


def percents(interval: tuple[float, float] | None) -> str:
    """(0.41, 0.452) -> `41.0 to 45.2 %`."""
    if interval is None:
        return "–"
    return f"{_hundred(interval[0]):.1f} to {_hundred(interval[1]):.1f} %"


def point_range(interval: tuple[float, float] | None) -> str:
    """(-0.01, 0.032) -> `−1.0 to +3.2`."""
    if interval is None:
        return "–"
    return f"{_hundred(interval[0]):+.1f} to {_hundred(interval[1]):+.1f}".replace("-", "−")


def _hundred(share: float) -> float:
    """Times 100, rounded so that 0.6 - 0.4625 and 11 / 80 print the same."""
    return round(100 * share, 9)


def number(value: float | None, digits: int = 2) -> str:
    """A number with thousands separators, integers without decimals; None -> a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if isinstance(value, int) else f"{value:,.{digits}f}"


def probability(value: float) -> str:
    """A p-value."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
