"""HTML templates of pages, and the function that fills them in.

Everything that a template prints is escaped, except our own plots. A page is one file that loads
nothing: its content security policy forbids it.
"""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from si.report.palette import COLOURS


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("si.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["kept"] = _kept
    return environment


def _kept(words: str) -> str:
    """The text with no-break spaces between numbers and units."""
    return words.replace(" %", "\u00a0%").replace("p = ", "p\u00a0=\u00a0")


def source(name: str) -> str:
    """The text of a file in this folder."""
    return (Path(__file__).parent / name).read_text()


def render(template: str, **values: Any) -> str:
    """A template of this folder, filled in; lone surrogates, invalid in UTF-8, become `?`."""
    text = _environment().get_template(template).render(colours=COLOURS, **values)
    return text.encode("utf-8", "replace").decode()
