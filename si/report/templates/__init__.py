"""The pages: HTML templates, and how they are filled in.

Everything that a template prints is escaped unless it is a plot of ours. A page is one file
that asks nobody for anything: its content security policy forbids it.
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
    """Words whose numbers and units are not torn apart at a line's end."""
    return words.replace(" %", "\u00a0%").replace("p = ", "p\u00a0=\u00a0")


def source(name: str) -> str:
    """A file of this folder as it is."""
    return (Path(__file__).parent / name).read_text()


def render(template: str, **values: Any) -> str:
    """A template of this folder, filled in; lone surrogates, unknown to UTF-8, become `?`."""
    text = _environment().get_template(template).render(colours=COLOURS, **values)
    return text.encode("utf-8", "replace").decode()
