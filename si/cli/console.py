"""What the terminal shows: progress, tables, and a run as a tree; plain lines without a terminal.

Text that others wrote (names, messages, a model's words) goes through `say` or `safe`.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import typer
from rich.console import Console
from rich.live import Live
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
from rich.tree import Tree

from si.entry import Entry
from si.errors import SiError
from si.events import Event
from si.runs.journal import describe
from si.untrusted import one_line, several_lines


def say(text: str = "", err: bool = False) -> None:
    """Print text without the control characters that a terminal would obey."""
    typer.echo(several_lines(text), err=err)


def plural(count: int, noun: str) -> str:
    """`1 iteration`, `2 iterations`, `1,000 iterations`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def show_error(error: SiError) -> None:
    """Print an error: what happened, where, and what to try, on the error stream."""
    typer.secho(f"\n{one_line(error.headline)}", fg="red", bold=True, err=True)
    for line in error.detail.splitlines():
        say(f"  {line}", err=True)
    if error.ways_out:
        say("What to try:", err=True)
    for way in error.ways_out:
        say(f"  - {way}", err=True)


def safe(text: str) -> Text:
    """Text for rich without markup, and without control characters."""
    return Text(several_lines(text))


class _Bars:
    """Bars of progress, and lines above them; without a terminal, lines alone."""

    console: Console
    progress: Progress

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


class Screen(_Bars):
    """Shows the loop's events: a line for each finished stage, a bar for the current one."""

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
                begun = self.begun.pop(event["entry"], None)
                words = describe(event["entry"], event["facts"])
                self.done(event["entry"], begun and time.monotonic() - begun, words)

    def done(self, entry: str, seconds: float | None, words: str) -> None:
        """Show a finished stage; `seconds` is None if an earlier run computed it."""
        self._clear()
        spent = "   kept" if seconds is None else f"{seconds:5.1f} s"
        self.line(f"{entry:<22} {spent}  {words}")

    def _clear(self) -> None:
        if self.task is not None:
            self.progress.remove_task(self.task)
            self.task = None


class Counting(_Bars):
    """Counts rows on the error stream: with a bar in a terminal, elsewhere with a line from time to
    time."""

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

    def hear(self, event: Event) -> None:
        """Show an event with `done` and `total` rows."""
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
    """Print a table; cells are plain text, never markup."""
    grid = Table(title=safe(title), title_justify="left", header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(safe("" if cell is None else str(cell)) for cell in row))
    # Without a terminal there is no width to fit.
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=160)
    console.print(grid)


# --- a run as a tree -------------------------------------------------------------------------


class Leaf(NamedTuple):
    """A stage in the tree of a run; `notes` are shown below it."""

    entry: str
    seconds: float | None
    words: str
    done: bool
    notes: tuple[str, ...] = ()


Shown = tuple[str, list[Leaf], list[str]]  # head, stages, last lines


def of_store(tree: dict[str, Any], process: int | None) -> Shown:
    """A run from the store (`si.runs.status.status`); `process` is at work on it, if any."""
    head = f"{tree['run']}: {tree['strategy']}, K={tree['k']}, seed {tree['seed']}"
    if tree["generation"] > 1:
        head += f", generation {tree['generation']}"
    if process is not None:
        head += f", process {process or '?'} is at work"
    leaves = []
    for iteration in tree["iterations"]:
        for stage in iteration["stages"]:
            done = stage["state"] == "done"
            if done:
                words = describe(stage["entry"], stage["facts"])
                again = stage["attempts"] - stage["shards"]
            else:
                left = stage["seconds_left"] if process is not None else None
                words = _at(stage, left, process is not None)
                again = stage["attempts"] - stage["committed"]
            words = f"{again} repeated  {words}" if again > 0 else words
            leaves.append(Leaf(stage["entry"], stage["seconds"], words, done))
    return head, leaves, [tree["stopped"]["words"]] if tree["stopped"] else []


def of_journal(state: dict[str, Any], now: float) -> Shown:
    """A run on a cluster: its name, and its controller's journal (`si.runs.journal.Journal`)."""
    head = f"{state['run']}: {state.get('phase', 'not started')}"
    if state.get("generation", 1) > 1:
        head += f", generation {state['generation']}"
    if state.get("starts", 1) > 1:
        head += f", controller started {state['starts']} times"
    leaves: list[Leaf] = []
    took: dict[str, float] = {}  # by stage, of the last iteration that has it
    for stage in state.get("stages", []):
        name, done = Entry.parse(stage["entry"]).step, stage["state"] == "done"
        words = stage.get("words", "")
        if not done:
            left = None
            if "began" in stage:
                so_far, committed = now - stage["began"], stage["committed"]
                whole = so_far / committed * stage["shards"] if committed else took.get(name, 0.0)
                left = max(0.0, whole - so_far)
            words = _at(stage, left, True)
        elif "seconds" in stage:
            took[name] = stage["seconds"]
        notes = [f"Job {stage['attempts']}: earlier ones failed"] * (stage["attempts"] > 1)
        notes += [f"pod {failure['pod']} {failure['why']}" for failure in stage["failures"]]
        if stage["problem"]:
            notes.append(f"{stage['problem']['headline']}: {stage['problem']['detail']}")
        seconds = stage.get("seconds", now - stage["began"] if "began" in stage else None)
        leaves.append(Leaf(stage["entry"], seconds, words, done, tuple(notes)))
    stopped, error = state.get("stopped"), state.get("error")
    last = [stopped["words"]] if stopped else []
    return head, leaves, last + ([f"{error['headline']}\n{error['detail']}"] if error else [])


def _at(stage: dict[str, Any], left: float | None, at_work: bool) -> str:
    what = "at work" if at_work else "open"
    words = f"{what}: {stage['committed']} of {stage['shards']} shards"
    return words + (f", about {span(left)} left" if left else "")


def span(seconds: float) -> str:
    """75 -> `75 s`; 300 -> `5 min`; 10000 -> `2.8 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def draw(head: str, leaves: Iterable[Leaf], last: Iterable[str] = (), brief: bool = False) -> Tree:
    """The tree of a run; with `brief`, one line for each iteration but the last."""
    root = Tree(safe(head))
    groups: dict[int, list[Leaf]] = {}
    for leaf in leaves:
        groups.setdefault(Entry.parse(leaf.entry).t, []).append(leaf)
    for number, stages in groups.items():
        label = f"iteration {number}" if number else "policy 0"
        if brief and number != max(groups):
            seconds = sum(stage.seconds or 0.0 for stage in stages)
            scores = [s.words for s in stages if Entry.parse(s.entry).step == "evaluate"]
            root.add(safe(f"{label:<17} {seconds:9.1f} s  {''.join(scores)}"))
            continue
        branch = root.add(safe(label))
        for stage in stages:
            name = Entry.parse(stage.entry).step
            spent = "" if stage.seconds is None else f"{stage.seconds:.1f} s"
            added = branch.add(safe(f"{name:<17} {spent:>8}  {stage.words}".rstrip()))
            for note in stage.notes:
                added.add(safe(note))
    for line in last:
        root.add(safe(line))
    return root


def watch(look: Callable[[], tuple[Shown, bool]], wait: Callable[[], object]) -> None:
    """Show a run until it ends: live in a terminal, elsewhere with a line for each finished stage.

    Args:
        look: returns what to show, and whether the run has ended.
        wait: waits until it makes sense to look again.
    """
    console = Console(highlight=False)
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                shown, over = look()
                live.update(draw(*shown, brief=not over), refresh=True)
                if over:
                    return
                wait()
    told: set[str] = set()
    said = ""
    with Screen() as screen:
        while True:
            (head, leaves, last), over = look()
            if head != said:
                said = head
                screen.line(head)
            for leaf in leaves:
                if leaf.done and leaf.entry not in told:
                    told.add(leaf.entry)
                    screen.done(leaf.entry, leaf.seconds, leaf.words)
            if over:
                for line in last:
                    screen.line(line)
                return
            wait()
