"""A run as a tree, once or live: iterations, stages, what they came to, how long is left."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from si.runs.journal import describe

if TYPE_CHECKING:
    from rich.tree import Tree


class Leaf(NamedTuple):
    """A stage as it is shown. `entry` is `it01/explore`; `notes` stand below it."""

    entry: str
    seconds: float | None
    words: str
    done: bool
    notes: tuple[str, ...] = ()


Shown = tuple[str, list[Leaf], list[str]]  # head, stages, last lines


def of_store(tree: dict[str, Any], process: int | None) -> Shown:
    """What is shown of what `si.runs.status.status` says; `process` works on the run."""
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
                words = describe(stage["entry"].split("/")[1], stage["facts"])
                again = stage["attempts"] - stage["shards"]
            else:
                left = stage["seconds_left"] if process is not None else None
                words = _at(stage, left, process is not None)
                again = stage["attempts"] - stage["committed"]
            words = f"{again} repeated  {words}" if again > 0 else words
            leaves.append(Leaf(stage["entry"], stage["seconds"], words, done))
    return head, leaves, [tree["stopped"]["words"]] if tree["stopped"] else []


def of_journal(state: dict[str, Any], now: float) -> Shown:
    """The same from a controller's journal (`si.runs.journal.Journal`), with the run's name."""
    head = f"{state['run']}: {state.get('phase', 'not begun')}"
    if state.get("generation", 1) > 1:
        head += f", generation {state['generation']}"
    if state.get("starts", 1) > 1:
        head += f", controller started {state['starts']} times"
    leaves: list[Leaf] = []
    took: dict[str, float] = {}  # by stage, of the last iteration that has it
    for stage in state.get("stages", []):
        name, done = stage["entry"].split("/")[1], stage["state"] == "done"
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


def draw(
    head: str, leaves: Iterable[Leaf], last: Iterable[str] = (), brief: bool = False
) -> "Tree":
    """The tree; `brief` shows of iterations that others follow one line each."""
    from rich.tree import Tree

    from si.cli.screen import safe

    root = Tree(safe(head))
    groups: dict[int, list[Leaf]] = {}
    for leaf in leaves:
        groups.setdefault(int(leaf.entry.split("/")[0].removeprefix("it")), []).append(leaf)
    for number, stages in groups.items():
        label = f"iteration {number}" if number else "policy 0"
        if brief and number != max(groups):
            seconds = sum(stage.seconds or 0.0 for stage in stages)
            scores = [stage.words for stage in stages if stage.entry.endswith("/evaluate")]
            root.add(safe(f"{label:<17} {seconds:9.1f} s  {''.join(scores)}"))
            continue
        branch = root.add(safe(label))
        for stage in stages:
            name = stage.entry.split("/")[1]
            spent = "" if stage.seconds is None else f"{stage.seconds:.1f} s"
            added = branch.add(safe(f"{name:<17} {spent:>8}  {stage.words}".rstrip()))
            for note in stage.notes:
                added.add(safe(note))
    for line in last:
        root.add(safe(line))
    return root


def watch(look: Callable[[], tuple[Shown, bool]], wait: Callable[[], object]) -> None:
    """Show a run until it is over: live in a terminal, elsewhere a line for each stage that is
    done.

    Args:
        look: what is to be shown, and whether the run is over.
        wait: until it makes sense to look again.
    """
    from rich.console import Console
    from rich.live import Live

    from si.cli.screen import Screen

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
