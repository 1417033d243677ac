"""What users read says one thing by one word: no phrase of phrases.yaml is in it."""

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SI = ROOT / "si"

# Rooms whose texts still wait for their rewriting: none.
NOT_YET: tuple[str, ...] = ()

PROSE = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "helm").rglob("*.md"),
    *(ROOT / "helm").rglob("*.txt"),
    *(ROOT / ".github").rglob("*.yml"),
]
COMMENTED = [
    ROOT / "mkdocs.yml",
    ROOT / "Makefile",
    *(ROOT / "helm").rglob("*.yaml"),
    *(ROOT / "images").rglob("Dockerfile"),
    *(ROOT / "k8s").rglob("*.yaml"),
    *(ROOT / "jobs" / "recipes").glob("*.yaml"),
]
TEMPLATES = [*SI.rglob("*.html"), *SI.rglob("*.js")]

Text = tuple[int, str]


def paragraphs(text: str) -> Iterator[Text]:
    """Line number and text of every paragraph, without code."""
    text = re.sub(r"^```.*?^```$", blank, text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]+`", "CODE", text)
    line = 1
    for paragraph in re.split(r"(\n\s*\n)", text):
        if paragraph.strip() and not paragraph.startswith("    "):
            yield line, paragraph
        line += paragraph.count("\n")


def blank(found: re.Match[str]) -> str:
    """As many empty lines."""
    return "\n" * found[0].count("\n")


def comments(text: str) -> Iterator[Text]:
    """Line number and text of every block of comments, and of every comment behind a value."""
    for found in re.finditer(r"(?:^ *#.*\n)+|#.*$", text, re.MULTILINE):
        words = re.sub(r"^ *#+|`[^`\n]+`", " ", found[0], flags=re.MULTILINE)
        yield text.count("\n", 0, found.start()) + 1, words


def literals(text: str) -> Iterator[Text]:
    """Line number and text of every string, docstrings included; a bare name is not a text."""
    inside = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = [] if id(node) in inside else [node.value]
        else:
            continue
        words = "".join(str(part) for part in parts)
        if " " in words.strip():
            yield node.lineno, re.sub(r"`[^`\n]+`", "CODE", words)


@lru_cache
def phrases() -> list[tuple[re.Pattern[str], list[re.Pattern[str]], str]]:
    """What to avoid, where it is good English all the same, and what to write."""
    rows = yaml.safe_load((Path(__file__).parent / "phrases.yaml").read_text())
    return [
        (word(row["avoid"]), [word(allowed) for allowed in row.get("allow", ())], row["write"])
        for row in rows
    ]


def word(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{pattern})\b(?!')", re.IGNORECASE)


def foreign(texts: Iterator[Text]) -> list[str]:
    """A line for every phrase in the texts that is to be avoided."""
    return [
        f"line {line}: ...{text[max(0, found.start() - 30) : found.end() + 20]}... -> {better}"
        for line, raw in texts
        for text in [re.sub(r"\s+", " ", raw)]
        for avoid, allow, better in phrases()
        for found in avoid.finditer(text)
        if not any(
            good.start() <= found.start() and found.end() <= good.end()
            for allowed in allow
            for good in allowed.finditer(text)
        )
    ]


def ours(path: Path) -> bool:
    room = path.relative_to(SI).as_posix()
    return room not in NOT_YET and room.partition("/")[0] not in NOT_YET


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages(path: Path) -> None:
    """No page has a phrase to avoid."""
    assert foreign(paragraphs(path.read_text())) == []


@pytest.mark.parametrize("path", COMMENTED, ids=lambda path: str(path.relative_to(ROOT)))
def test_comments_that_users_read(path: Path) -> None:
    """No comment of the chart, the Jobs or the recipes has one."""
    assert foreign(comments(path.read_text())) == []


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates(path: Path) -> None:
    """No template of a page has one."""
    if ours(path):
        assert foreign(paragraphs(path.read_text())) == []


def test_strings_of_the_code() -> None:
    """No message, help text or docstring has one."""
    found = {
        str(path.relative_to(ROOT)): lines
        for path in SI.rglob("*.py")
        if ours(path) and (lines := foreign(literals(path.read_text())))
    }
    assert found == {}


def test_rooms_that_wait_exist() -> None:
    """The list of rooms that wait has no room that is gone."""
    assert [name for name in NOT_YET if not (SI / name).exists()] == []


@pytest.mark.parametrize(
    "text,found",
    [
        ("X is no folder", 1),
        ("There is no folder, and it is no longer needed", 0),
        ("an own\n  verifier", 2),
        ("plug in your own verifier", 0),
        ("a model card; a card", 1),
        ("File not found", 0),
        ("a `picture_tokens` setting", 0),
    ],
)
def test_phrases_are_found_and_contexts_allowed(text: str, found: int) -> None:
    """The list finds what it should, across line ends, and leaves good English alone."""
    assert len(foreign(paragraphs(text))) == found
