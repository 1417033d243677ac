"""Make text from outside safe to show in a terminal, on a page or in Markdown.

Names of files, error messages and cells of tables may hold escape sequences, which a terminal
obeys, or markup, which a page renders. Code that shows such text passes it through here first.
"""

import html
import re

REPLACEMENT = "�"  # stands for each character that is not printable
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~$])")


def one_line(text: object, longest: int | None = None) -> str:
    """`text` on one line of at most `longest` characters, each unprintable character replaced.

    Unprintable is what `str.isprintable` says: control characters, line breaks, escape sequences
    and marks that change the direction of writing among them.
    """
    return "".join(c if c.isprintable() else REPLACEMENT for c in str(text))[:longest]


def several_lines(text: object, longest: int | None = None) -> str:
    """`text` with its line breaks kept; if it is cut to `longest` characters, ` ...` follows."""
    safe = "\n".join(map(one_line, str(text).split("\n")))
    return safe if longest is None or len(safe) <= longest else safe[:longest] + " ..."


def slug(text: str, longest: int | None = None) -> str:
    """`text` for paths, addresses and DNS labels: a-z, 0-9 and hyphens, cut to `longest`.

    It may be empty.
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:longest].strip("-")


def markdown(text: object) -> str:
    """`text` as one line of Markdown that shows it literally: no markup, no HTML, no links."""
    words = "".join(c if c.isprintable() else " " for c in str(text)).split()
    # A renderer turns bare addresses into links: the colon is written as a character reference.
    return _MARKDOWN.sub(r"\\\1", html.escape(" ".join(words))).replace("://", "&#58;//")
