"""This machine's processes and cores, asked by psutil, which knows Linux and macOS."""

import os
import platform
import resource
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import psutil

MACOS = platform.system() == "Darwin"


def cores() -> int:
    """How many cores this process may compute on."""
    # macOS binds no process to cores.
    return len(os.sched_getaffinity(0)) if not MACOS else os.cpu_count() or 1


def children(process: int) -> list[int]:
    """The processes that one has started, and those that they have, each before its parent."""
    with suppress(psutil.NoSuchProcess):
        found = psutil.Process(process).children(recursive=True)
        return [child.pid for child in reversed(found)]
    return []


def end_children(process: int) -> None:
    """Kill what a process has started, and what that has; some may be gone by themselves."""
    for child in children(process):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def writing_errors_to(files: Collection[Path]) -> list[int]:
    """The processes whose standard error is one of these files.

    Where the system does not tell standard error apart (macOS), the user's processes that have one
    of them open.
    """
    if not MACOS:
        links = Path("/proc").glob("[0-9]*/fd/2")
        return [int(link.parts[-3]) for link in links if _target(link) in files]
    names = {str(path) for path in files}
    return [process.pid for process in psutil.process_iter() if names & _open_files(process)]


def _target(link: Path) -> Path | None:
    with suppress(OSError):  # the process has ended, or belongs to somebody else
        return link.readlink()
    return None


def _open_files(process: psutil.Process) -> set[str]:
    with suppress(psutil.Error, OSError):
        if process.pid != os.getpid() and process.uids().real == os.getuid():
            return {file.path for file in process.open_files()}
    return set()


def limit_memory(more: int) -> None:
    """Let this process take so many more bytes of addresses than it has now; it leaves no core.

    macOS has no such limit: there a process is ended by its processor time alone.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if MACOS:
        return
    limit = psutil.Process().memory_info().vms + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def peak_memory() -> int:
    """The most bytes that this process has held in memory at once."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if MACOS else most * 1024  # bytes there, KiB on Linux
