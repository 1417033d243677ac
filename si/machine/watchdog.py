"""Ends a process whose engine hangs, so that its shard is begun again."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from si.errors import RETRY, StageFailed
from si.events import tell
from si.machine.processes import end_children

NEVER = float("inf")


class Watchdog:
    """Ends the process, and what it has started, with exit code 4 after `seconds` without `fed`.

    It asks nothing of the thread that hangs, which may be deep in a library.
    """

    def __init__(self, what: str, seconds: float):
        self.what = what
        self.seconds = seconds
        self.last = NEVER
        self.ended = threading.Event()

    def __enter__(self) -> "Watchdog":
        self.fed()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.ended.set()

    def fed(self) -> None:
        """There was progress just now."""
        self.last = time.monotonic()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """While others are at work, nothing is expected."""
        self.last = NEVER
        yield
        self.fed()

    def _watch(self) -> None:
        while not self.ended.wait(min(1, self.seconds / 4)):
            if time.monotonic() - self.last > self.seconds:
                tell(
                    StageFailed(
                        f"{self.what} made no progress for {self.seconds:g} s",
                        f"process {os.getpid()} is ended; its shard is begun again",
                        "If it is only slow: a higher SICTL_VLLM_HANG_SECONDS.",
                        exit_code=RETRY,
                    )
                )
                end_children(os.getpid())
                os._exit(RETRY)
