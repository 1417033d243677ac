"""The judge in threads, and in forked and spawned processes: as trainers call reward functions."""

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from si.answers import Judge, MathPool, Policy, case

PAIRS = [
    ("Answer: 12", "12", True),
    ("Answer: 13", "12", False),
    (r"\boxed{\frac{\sqrt{3}}{2}}", r"\sqrt{3}/2", True),
    (r"Answer: $\int_0^2 x\,dx$", "2", True),  # only math-verify knows it
    (r"Answer: $\int_0^2 x\,dx$", "3", False),
]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with MathPool(size=1) as pool:
        yield Judge(Policy(), pool)


def correct(judge: Judge) -> list[bool]:
    verdicts = judge.judge_all(case(response, reference) for response, reference, _ in PAIRS)
    return [verdict.correct for verdict in verdicts]


def judged_elsewhere(_: int) -> list[bool]:
    """What a process with a judge of its own says."""
    with MathPool(size=1) as pool:
        return correct(Judge(Policy(), pool))


def test_threads_share_a_judge(judge: Judge) -> None:
    """Eight threads get the same verdicts from one judge and its pool."""
    with ThreadPoolExecutor(8) as threads:
        said = list(threads.map(lambda _: correct(judge), range(32)))
    assert said == [[expected for *_, expected in PAIRS]] * 32


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_processes_judge_for_themselves(start: str) -> None:
    """Forked and spawned workers start pools of their own."""
    context = multiprocessing.get_context(start)
    with ProcessPoolExecutor(2, mp_context=context) as processes:
        said = list(processes.map(judged_elsewhere, range(2)))
    assert said == [[expected for *_, expected in PAIRS]] * 2


def test_a_forked_process_uses_its_parents_judge(judge: Judge) -> None:
    """A judge that was used before the fork works on both sides of it, also at the same time."""
    correct(judge)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def child() -> None:
        fresh = Judge(Policy(), judge.pool)  # without the memo
        theirs.send(correct(fresh))

    process = context.Process(target=child)
    process.start()
    here = correct(Judge(Policy(), judge.pool))
    assert ours.poll(60)
    assert ours.recv() == here == [expected for *_, expected in PAIRS]
    process.join()


def test_no_signal_handler_is_touched(judge: Judge) -> None:
    """Judging works outside the main thread and leaves the program's signal handlers alone."""
    before = [signal.getsignal(number) for number in signal.valid_signals()]
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(correct, judge).result() == [expected for *_, expected in PAIRS]
    assert [signal.getsignal(number) for number in signal.valid_signals()] == before
