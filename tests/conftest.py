"""What all tests share: a budget for each, no waiting for disks, a real S3 server process."""

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection

import pytest

BUCKET = "si-test"

with suppress(ImportError):  # the engines' environments do without
    from hypothesis import settings

    # A deadline is a timed assertion, and the first example pays for the imports.
    settings.register_profile("si", deadline=None)
    settings.load_profile("si")

# Seconds of a processor, its own and its children's, that a test without the mark `slow` may take
# on the machine where DRILL takes 17 ms; a slower machine has so much more. Time by the clock would
# depend on what else the machine is at.
BUDGET = 5.0
# On a busy machine the same test takes up to 1.5 times as long, so less than that proves nothing.
NOISE = 1.5
DRILL = 0.017
# Whoever is first in a process to import one of these pays for all that come after.
LIBRARIES = ("torch", "transformers", "matplotlib", "math_verify", "mlflow", "wandb", "datasets")


def _drill() -> float:
    """Seconds of a processor that a fixed piece of work takes here and now."""
    begun = time.process_time()
    for _ in range(3):
        sum(number * number % 7 for number in range(250_000))
    return (time.process_time() - begun) / 3


def _spent() -> float:
    return sum(os.times()[:4])


@pytest.fixture(autouse=True)
def _within_budget(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that takes longer than its budget and is not marked `slow`."""
    marks = ("slow", "soak", "gpu", "browser")
    free = any(request.node.get_closest_marker(mark) for mark in marks)
    known, begun = {name for name in LIBRARIES if name in sys.modules}, _spent()
    yield
    spent = _spent() - begun
    if free or spent < BUDGET or known != {name for name in LIBRARIES if name in sys.modules}:
        return
    # Neighbours on the same core take its caches: what it is worth is measured now.
    budget = BUDGET * NOISE * max(1.0, _drill() / DRILL) * (2 if "coverage" in sys.modules else 1)
    if spent > budget:
        pytest.fail(
            f"took {spent:.1f} s of a processor, more than {budget:.1f}: make it faster, "
            "or mark it `slow`",
            pytrace=False,
        )


@pytest.fixture(autouse=True, scope="session")
def _no_disk_to_wait_for() -> Iterator[None]:
    """Let fsync return at once in this process: no test here survives a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a moto server with an empty bucket `si-test`, and credentials for it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, os.environ.get(name, "testing"))
        import boto3

        endpoint = f"http://127.0.0.1:{ours.recv()}"
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield endpoint
    server.kill()
    server.join()


def _serve(port: Connection) -> None:
    # A short page makes listings of a few keys take several requests.
    os.environ["MOTO_S3_DEFAULT_MAX_KEYS"] = "10"
    import logging
    import threading

    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = DomainDispatcherApplication(create_backend_app)
    lock = threading.Lock()

    def one_put_at_a_time(environ, start_response):  # type: ignore[no-untyped-def]
        # moto looks for the key and puts it in two steps; a real server does both in one.
        if environ["REQUEST_METHOD"] != "PUT":
            return app(environ, start_response)
        with lock:
            return app(environ, start_response)

    server = make_server(
        "127.0.0.1", 0, one_put_at_a_time, threaded=True, request_handler=MotoRequestHandler
    )
    port.send(server.port)
    server.serve_forever()
