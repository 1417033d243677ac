"""Apply a function to items in parallel, and yield the results in the order of the items."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], window: int
) -> Iterator[Result]:
    """`work(item)` for each item, in the order of `items`.

    Unlike `Executor.map`, it takes an item only when there is room for it, so that `items` may be
    endless and memory is bounded by `window` items and results.

    Args:
        pool: runs the calls; it is not shut down.
        window: how many items are computed, or wait to be yielded, at the same time; at least 1.

    Raises:
        Whatever `work` raises, when its result is due. Calls that have not begun are cancelled
        then, and also when the caller stops iterating.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
