"""The pages: HTML templates, and how they are filled in.

Everything that a template prints is escaped unless it is a plot of ours. A page is one file
that asks nobody for anything: its content security policy forbids it.
"""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("si", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, **values: Any) -> str:
    """A template of this folder, filled in; lone surrogates, unknown to UTF-8, become `?`."""
    from si.plots import COLOURS

    text = _environment().get_template(template).render(colours=COLOURS, **values)
    return text.encode("utf-8", "replace").decode()
