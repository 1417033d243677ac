"""What tests of several folders share: a real S3 server process."""

import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

BUCKET = "si-test"


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
