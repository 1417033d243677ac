"""Progress and tables: live in a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from si.cli.options import printable
from si.events import Event
from si.runs.journal import describe


def safe(text: str) -> Text:
    """Text as it is, whoever wrote it: no markup, and nothing that a terminal would obey."""
    return Text("\n".join(map(printable, text.split("\n"))))


class Screen:
    """Shows the loop's events: a line for each stage done, a bar for the one at work."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task: Any = None
        self.begun: dict[str, float] = {}

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def line(self, text: str) -> None:
        self.console.print(safe(text), soft_wrap=True)

    def hear(self, event: Event) -> None:
        """Show one event of `si.run.Run` or of a worker."""
        match event["event"]:
            case "begin":
                self.begun[event["entry"]] = time.monotonic()
                self._clear()
                self.task = self.progress.add_task(
                    event["entry"], total=event["shards"], unit="shards"
                )
            case "check" | "commit" if self.task is not None:  # rows of an import
                words = f"rows: {event['event']}"
                self.progress.update(
                    self.task, completed=event["done"], total=event["total"], unit=words
                )
            case "shard" if self.task is not None and event.get("won"):
                self.progress.advance(self.task)
            case "shards" if self.task is not None:
                self.progress.update(self.task, completed=event["committed"])
            case "problem":
                self.line(f"  {event['entry']}: {event['headline']}")
                for text in (*event["detail"].splitlines(), *event["ways_out"]):
                    self.line(f"    {text}")
            case "failure":
                self.line(f"  {event['entry']}: pod {event['pod']} {event['why']}; trying again")
            case "retry":
                self.line(f"  {event['entry']}: worker {event['workers']} failed; trying again")
            case "done":
                begun = self.begun.get(event["entry"])
                words = describe(event["entry"].split("/")[1], event["facts"])
                self.done(event["entry"], begun and time.monotonic() - begun, words)

    def done(self, entry: str, seconds: float | None, words: str) -> None:
        """Show a stage that is done; `seconds` is None where it was done before."""
        self._clear()
        spent = "   kept" if seconds is None else f"{seconds:5.1f} s"
        self.line(f"{entry:<22} {spent}  {words}")

    def _clear(self) -> None:
        if self.task is not None:
            self.progress.remove_task(self.task)
            self.task = None


class Counting:
    """Shows how many rows are done, on the error stream: a bar in a terminal, elsewhere a line
    now and then."""

    QUIET = 10  # seconds between two lines

    def __init__(self) -> None:
        self.console = Console(highlight=False, stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.tasks: dict[str, TaskID] = {}
        self.begun: dict[str, tuple[float, int]] = {}
        self.said = time.monotonic()

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def line(self, text: str) -> None:
        self.console.print(safe(text), soft_wrap=True)

    def hear(self, event: Event) -> None:
        """Show an event that holds `done` of `total` rows."""
        what, done, total = event["event"], event["done"], event["total"]
        now = time.monotonic()
        if what not in self.tasks:
            self.tasks[what] = self.progress.add_task(what, total=total, rate="")
            self.begun[what] = now, done
        since, first = self.begun[what]
        rate = f"{(done - first) / (now - since):,.0f} rows/s" if now > since else ""
        rate += f", {event['bad']} bad" if event.get("bad") else ""
        self.progress.update(self.tasks[what], completed=done, rate=rate)
        if not self.console.is_terminal and now - self.said > self.QUIET:
            self.said = now
            self.line(f"{what}: {done:,} of {total:,}, {rate}")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; cells are shown as they are, never as markup."""
    grid = Table(title=safe(title), title_justify="left", header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(safe("" if cell is None else str(cell)) for cell in row))
    # Without a terminal there is no width to fit.
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=160)
    console.print(grid)
