"""math-verify at arm's length: processes that compare formulas and can be killed.

What reaches it is bounded first (`bounded`), so that its time limit is a backstop. The limit is
one of processor seconds, so that a verdict does not depend on the machine's load; a process that
answers nothing in `PATIENCE` times that limit by the clock is killed as well.
"""

import contextlib
import json
import os
import re
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from si.answers.spelling import LONGEST, TooBig, Unreadable, spell
from si.answers.text import words
from si.errors import StageFailed
from si.machine.processes import cores, limit_memory

PATIENCE = 10  # the clock's limit, as a multiple of the limit in processor seconds
MEMORY = 1 << 30  # bytes that a worker may take beyond what it has after its imports
MEMO = 100_000  # pairs of answers remembered at most
_DEEP = 24  # brackets within brackets
_HEAVY = re.compile(r"!|\\(?:sum|prod|int|binom|lim)(?![a-zA-Z])|\^")
_LONG = re.compile(r"\d{6,}")
_TOWER = re.compile(
    r"\^\s*\{?[^{}^+\-]{0,20}\^\s*\{?[^{}^+\-]{0,20}\^|\^\s*\{?\s*\(?\d{5,}|\d{4,}\s*!|!\s*!|\^\s*\{?\d+\s*\^\s*\{?\d{2,}"
)


def bounded(text: str) -> bool:
    """Whether a formula is small enough to be handed to math-verify, by its text alone."""
    if len(text) > LONGEST:
        return False
    depth = 0
    for char in text:
        if char in "{([":
            depth += 1
            if depth > _DEEP:
                return False
        elif char in "})]":
            depth -= 1
    if _HEAVY.search(text) and (_LONG.search(text) or text.count("^") > 24):
        return False
    return not _TOWER.search(text)


def formula(text: str) -> str:
    """An answer as one line of LaTeX, in the spelling that is handed to math-verify."""
    try:
        return spell(text)
    except (Unreadable, TooBig):
        return words(text)


class MathPool:
    """Processes that ask math-verify whether two answers are equal, and can be killed.

    They start when first asked (importing sympy takes a second or more), get no part of the
    environment but what Python needs, and end with `close` or with the garbage. Answers are
    remembered by (reference, answer). A pool may be shared by threads, and used in a forked
    process, which starts processes of its own.

    Args:
        timeout: processor seconds for one pair.
        size: processes at most; default one per core, at most 4.
        memory: bytes that a process may take on top of its libraries.
        plain: compare whole responses with references as math-verify alone does, as a second
            opinion, instead of answers.

    Attributes:
        counts: how often each answer was given; `timeout` counts the limit's hits.
    """

    def __init__(
        self,
        timeout: float = 5.0,
        size: int | None = None,
        memory: int = MEMORY,
        plain: bool = False,
    ):
        self.timeout = timeout
        self.plain = plain
        self.size = size or min(4, cores())
        self.memory = memory
        self.memo: dict[tuple[str, str], str] = {}
        self.counts: Counter[str] = Counter()
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        self._process = os.getpid()
        weakref.finalize(self, _end, self._idle, self._process)

    def __enter__(self) -> "MathPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "timeout": self.timeout,
            "size": self.size,
            "memory": self.memory,
            "plain": self.plain,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def close(self) -> None:
        """End all processes; the pool can be used again and then starts new ones."""
        _end(self._idle, self._process)

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """For each (reference, answer): equal, different, timeout or none (the process died).

        Raises:
            StageFailed: if math-verify cannot be started at all.
        """
        if os.getpid() != self._process:  # forked: the parent's processes are not ours
            self._idle, self._lock, self._process = [], threading.Lock(), os.getpid()
            weakref.finalize(self, _end, self._idle, self._process)
        with self._lock:
            return self._equal(pairs)

    def _equal(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        if len(self.memo) > MEMO:
            self.memo.clear()
        todo = deque(dict.fromkeys(pair for pair in pairs if pair not in self.memo))
        # More processes than a handful of pairs each would spend their time on importing.
        size = min(self.size, -(-len(todo) // 8))
        while len(self._idle) < size:
            self._idle.append(self._new())
        busy: dict[_Worker, tuple[str, str]] = {}
        with selectors.DefaultSelector() as selector:
            try:
                while todo or busy:
                    while todo and len(busy) < size:
                        worker = self._idle.pop() if self._idle else self._new()
                        busy[worker] = todo.popleft()
                        worker.ask(busy[worker])
                        selector.register(worker.output, selectors.EVENT_READ, worker)
                    soonest = min(worker.deadline for worker in busy)
                    ready = selector.select(max(0.0, soonest - time.monotonic()))
                    heard = {key.data for key, _ in ready}
                    late = {worker for worker in busy if time.monotonic() > worker.deadline}
                    for worker in heard | late:
                        said = worker.answer() if worker in heard else "timeout"
                        selector.unregister(worker.output)
                        self.memo[busy.pop(worker)] = said
                        self.counts[said] += 1
                        if said in ("equal", "different"):
                            self._idle.append(worker)
                        else:
                            worker.kill()
            finally:
                for worker in busy:
                    worker.kill()
        return [self.memo[pair] for pair in pairs]

    def _new(self) -> "_Worker":
        return _Worker(self.timeout, self.memory, self.plain)


def _end(workers: "list[_Worker]", process: int) -> None:
    while workers:
        worker = workers.pop()
        if os.getpid() == process:
            worker.kill()


class _Worker:
    """One process of the pool: a line of JSON in, a line out."""

    def __init__(self, timeout: float, memory: int, plain: bool):
        kept = (
            "PATH",
            "LANG",
            "LC_ALL",
            "LD_LIBRARY_PATH",
            "DYLD_LIBRARY_PATH",
            "PYTHONHOME",
            "TMPDIR",
        )
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        # The order of sets, and so sympy's way through a problem, follows the hash seed.
        environment |= {"PYTHONHASHSEED": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from si.answers.pool import _serve; _serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert self.process.stdin and self.process.stdout
        self.input: IO[bytes] = self.process.stdin
        self.output: IO[bytes] = self.process.stdout
        self.patience = PATIENCE * timeout
        self.deadline = 0.0
        self.ready = False
        self._send({"timeout": timeout, "memory": memory, "plain": plain})

    def _send(self, value: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # a dead worker shows when it is read
            self.input.write(json.dumps(value).encode() + b"\n")
            self.input.flush()

    def ask(self, pair: tuple[str, str]) -> None:
        if not self.ready:  # waited for here, so that its imports are not on the pair's clock
            self.ready = self.output.readline() == b"ready\n"
        if not self.ready:
            # Going on would call every formula wrong.
            self.kill()
            raise StageFailed(
                "The process that compares formulas does not start",
                f"{sys.executable} -c 'import math_verify' ended with {self.process.returncode}",
                "Run that command to see why; is math-verify installed, is memory short?",
            )
        self.deadline = time.monotonic() + self.patience
        self._send(pair)

    def answer(self) -> str:
        """The answer that is there to be read, or why there is none."""
        line = self.output.readline().decode().strip()
        if line in ("equal", "different"):
            return line
        spent = self.process.wait()
        # Ended by its processor-time alarm; anything else is a crash or a lack of memory.
        return "timeout" if -spent in (_SIGPROF, _SIGALRM) else "none"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # what it had not read yet
            self.input.close()
        self.output.close()


_SIGALRM, _SIGPROF = 14, 27


def _serve() -> None:
    """The process's main: answer pairs until the input ends.

    Both alarms keep their default action, which ends the process from within the kernel,
    whatever Python or C code is at work; the one by the clock is for a process whose parent
    is gone.
    """
    import logging
    import signal

    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries that print do not print into the protocol
    requests = os.fdopen(0, "rb")
    settings = json.loads(requests.readline())
    logging.disable(logging.CRITICAL)
    compare = plain_equal if settings["plain"] else math_equal
    compare("1", "2")  # imports
    limit_memory(int(settings["memory"]))
    replies.write(b"ready\n")
    for line in requests:
        reference, answer = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, settings["timeout"])
        signal.setitimer(signal.ITIMER_REAL, 2 * PATIENCE * settings["timeout"])
        said = b"equal\n" if compare(reference, answer) else b"different\n"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(said)


_WORD = re.compile(r"(?<![\\a-zA-Z])(pi|sqrt|infinity|infty)(?![a-zA-Z])")
_WORDS = {"pi": r"\pi ", "sqrt": r"\sqrt", "infinity": r"\infty ", "infty": r"\infty "}
_ROOT = re.compile(r"\\sqrt\s*\(([^()]*)\)")


def _latex(text: str) -> str:
    """An answer as one formula, words of plain-text mathematics made commands."""
    text = _WORD.sub(lambda match: _WORDS[match[1]], text.replace("$", ""))
    return f"${_ROOT.sub(lambda match: _WORDS['sqrt'] + '{' + match[1] + '}', text)}$"


@lru_cache(maxsize=512)
def _parsed(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    return list(parse(_latex(text), [LatexExtractionConfig()], parsing_timeout=None))


def math_equal(reference: str, answer: str) -> bool:
    """Whether math-verify takes two answers for equal. It may hang: see `MathPool`.

    Both are read as LaTeX alone: math-verify's reader of plain expressions is Python's `eval`.
    """
    from math_verify import verify as equal
    from sympy.core.random import seed  # type: ignore[import-untyped]

    seed(0)  # sympy tests equality at random points
    return bool(equal(_parsed(reference), _parsed(answer), timeout_seconds=None))


def plain_equal(reference: str, response: str) -> bool:
    """Whether math-verify alone, on a whole response, calls it correct. It may hang."""
    from math_verify import parse
    from math_verify import verify as equal

    gold = parse(f"\\boxed{{{reference}}}", parsing_timeout=None)
    return bool(equal(gold, parse(response, parsing_timeout=None), timeout_seconds=None))
