"""Text from outside: shown, and never obeyed."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from si.lookahead import ordered_map
from si.untrusted import markdown, one_line, several_lines, slug

ESCAPES = "a\x1b[2Jb\rc\u202ed\x07"  # clears the screen, returns, reverses, rings


def test_terminals_get_no_commands():
    """Whatever a terminal would obey becomes a replacement character, one for one."""
    assert one_line(ESCAPES) == "a�[2Jb�c�d�"
    assert one_line("a\nb") == "a�b"
    assert one_line("long", 2) == "lo"


def test_lines_are_kept_where_they_are_wanted():
    """Several lines stay several lines, and a text that is cut says so."""
    assert several_lines("a\n\x1bb") == "a\n�b"
    assert several_lines("abcdef", 3) == "abc ..."
    assert several_lines("abc", 3) == "abc"


@pytest.mark.parametrize("text", ["# a", "[a](b)", "<b>", "a | b", "`a`", "https://a.b", "*a*"])
def test_markdown_is_literal(text):
    """No text begins a heading or a link, opens a tag, ends a cell or becomes an address."""
    shown = markdown(f"x\n{text}")
    assert "\n" not in shown and "<" not in shown and "://" not in shown
    for mark in "#[]|`*":
        assert shown.count(mark) == shown.count("\\" + mark) + (mark == "#") * shown.count("&#")


def test_slugs_fit_into_addresses():
    """Only lower-case letters, digits and hyphens within are left."""
    assert slug("../My Data_Set!") == "my-data-set"
    assert slug("abc-def", 4) == "abc"
    assert slug("...") == ""


def test_a_map_is_in_order_and_not_far_ahead():
    """Results come in the order of the items, of which no more than the window are taken."""
    taken = []

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(4) as pool:
        for done, result in enumerate(ordered_map(pool, lambda n: n * n, items(), 3)):
            assert result == done**2
            assert len(taken) <= done + 3


def test_a_map_that_fails_cancels_the_rest():
    """An error is raised when its result is due, and calls that have not begun are cancelled."""
    hold, begun = threading.Event(), []

    def work(number):
        begun.append(number)
        if number == 0:
            raise ZeroDivisionError
        hold.wait(60)

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ZeroDivisionError):
            list(ordered_map(pool, work, range(10), 5))
        hold.set()
    assert len(begun) <= 2
