"""Worker processes on this machine.

Importing torch and transformers takes longer than most stages of a small run. So workers are forked
from one server process that has imported them (multiprocessing's forkserver). Two things would
undo that or leave processes behind:

- multiprocessing imports the parent's `__main__` in every worker, here the entire command line.
  `_without_main` hides it: workers need nothing from it.
- A worker that is killed leaves the processes that it has started, such as an engine that keeps the
  GPU's memory. Their standard error is still the worker's log; `end_strays` finds them by that.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from si.errors import RETRY
from si.machine.processes import MACOS, end_children, writing_errors_to

# On macOS a process that has loaded torch must not fork: its libraries have threads by then.
CONTEXT: Any = multiprocessing.get_context("spawn" if MACOS else "forkserver")


def preload(modules: Sequence[str]) -> None:
    """Let the server import these modules before it forks the first worker."""
    CONTEXT.set_forkserver_preload(list(modules))


def warm_up() -> None:
    """Start the server now, so that its imports overlap with other work."""
    from multiprocessing import forkserver

    if CONTEXT.get_start_method() == "forkserver":
        forkserver.ensure_running()


def start(
    name: str, script: Path, arguments: Sequence[str], environment: dict[str, str], log: Path
) -> tuple[BaseProcess, Connection]:
    """Start a worker that runs a script.

    Args:
        environment: variables to add to this process's.
        log: where the worker's standard error goes.

    Returns:
        The process, and the connection on which its standard output arrives.
    """
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process: BaseProcess = CONTEXT.Process(
        target=_run, args=(str(script), list(arguments), environment, str(log), sender), name=name
    )
    with _without_main():
        process.start()
    sender.close()
    return process, receiver


def end_strays(logs: Collection[Path]) -> None:
    """Kill the processes that workers with these logs have left behind, under this controller or
    an earlier one."""
    for process in writing_errors_to(logs):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)


def _run(path: str, argv: list[str], env: dict[str, str], log: str, events: Connection) -> None:
    """The worker: run the script, with standard output to the controller, standard error to the
    log."""
    os.dup2(events.fileno(), 1)
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 2)
    os.environ.update(env)
    threading.Thread(target=_end_with_controller, daemon=True).start()
    sys.argv = [path, *argv]
    try:
        runpy.run_path(path, run_name="__main__")
    except BaseException:
        # multiprocessing would wait for an engine's process, which the exception keeps alive.
        end_children(os.getpid())
        raise


def _end_with_controller() -> None:
    """Exit when the controller dies: nothing waits for an orphan's work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        end_children(os.getpid())
        os._exit(RETRY)


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide `__main__` from multiprocessing, which would import it in the worker."""
    main = sys.modules["__main__"].__dict__
    hidden: dict[str, Any] = {n: main.pop(n) for n in ("__file__", "__spec__") if n in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(hidden)
