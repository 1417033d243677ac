"""Checks that a store commits exactly once, the promise that everything else rests on."""

import uuid
from concurrent.futures import ThreadPoolExecutor

from si.errors import SiError
from si.store.port import Store

PARALLEL = 16
PASSED = "checks/conditional-create"  # what is here was found to hold


class NotExactlyOnce(SiError):
    """A store lets several writers create one object."""

    exit_code = 3


def probe(store: Store) -> None:
    """Create one new object from several threads at once: exactly one may win.

    Raises:
        NotExactlyOnce: if several win, or another's bytes are there.
        StoreUnavailable: if the store does not answer.
    """
    address = f"checks/probe-{uuid.uuid4().hex}"
    writers = [str(number).encode() for number in range(PARALLEL)]
    try:
        with ThreadPoolExecutor(PARALLEL) as threads:
            won = list(threads.map(lambda data: store.create(address, data), writers))
        there = store.get(address)
    finally:
        store.delete(address)
    winners = [data for data, it in zip(writers, won, strict=True) if it]
    # After a lost answer the winner may not know that it has won.
    if len(winners) > 1 or there not in (winners or writers):
        raise NotExactlyOnce(
            f"The store {store.url} lets {len(winners)} of {PARALLEL} writers create one object",
            "It ignores If-None-Match, so that two attempts could both commit an artefact.",
            'Use a server with conditional writes; docs/operations.md, "Commit", names some.',
        )


def ensure(store: Store) -> None:
    """Probe a store, unless it is known to have passed.

    Raises:
        NotExactlyOnce: if it fails.
        StoreUnavailable: if the store does not answer.
    """
    if not store.exists(PASSED):
        probe(store)
        store.create(PASSED, b"16 writers at once, one of them won\n")
