"""A bucket as storage, on any S3 server with conditional puts."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, TypeVar

import boto3
from boto3.s3.transfer import TransferConfig
from botocore import exceptions as failures
from botocore.config import Config
from s3transfer.exceptions import RetriesExceededError  # type: ignore[import-untyped]
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from si.config.place import S3
from si.errors import ArtifactMissing, RecipeError, SiError, StoreUnavailable
from si.store.folder import reserve, storage_errors
from si.store.port import Stored, checked

T = TypeVar("T")

# Single requests up to this size, parallel parts of this size above.
PART = 16 << 20
PARTS_AT_ONCE = 8  # of one file; there are enough connections for four files
CHUNK = 1 << 20
TRANSFER = TransferConfig(
    multipart_threshold=PART,
    multipart_chunksize=PART,
    max_concurrency=PARTS_AT_ONCE,
    preferred_transfer_client="classic",
)
NO_ANSWER = (failures.ConnectionError, failures.HTTPClientError, failures.IncompleteReadError)
BUSY = {409, 429, 500, 502, 503, 504}
CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE. On a cluster set the Secret "
    "in the chart's values."
)
RIGHTS = "The credentials need s3:GetObject, s3:PutObject and s3:ListBucket on this bucket."
# Error code -> what it means, and what to do.
CODES = {
    "NoSuchBucket": (
        "There is no bucket {bucket}",
        "Create the bucket, or set another one: place.store (SI_STORE).",
    ),
    "AccessDenied": ("Access to {url} is denied", RIGHTS),
    "403": ("Access to {url} is denied", RIGHTS),
    "InvalidAccessKeyId": ("The access key is unknown to the server", CREDENTIALS),
    "SignatureDoesNotMatch": ("The secret key does not match the access key", CREDENTIALS),
    "ExpiredToken": ("The credentials have expired", "Get new ones, then run the command again."),
    "InvalidToken": ("The session token is not valid", CREDENTIALS),
    "RequestTimeTooSkewed": ("This machine's clock is wrong", "Set the clock."),
    "QuotaExceeded": ("The bucket {bucket} is full", "Free some space or raise the quota."),
    "XMinioAdminBucketQuotaExceeded": (
        "The bucket {bucket} is full",
        "Free some space or raise the quota.",
    ),
    "XMinioStorageFull": ("The server's disk is full", "Free some space on the server."),
}


class S3Store:
    """A store below `prefix` in a bucket. Credentials come from boto3's usual chain.

    botocore retries a request once. Beyond that, transient errors (busy, timeout, unreachable)
    are retried for `patience` seconds. A server that has never answered is not retried.
    """

    connect_timeout = 5.0
    patience = 60.0

    def __init__(self, bucket: str, prefix: str, settings: S3):
        self._bucket = bucket
        self._prefix = "".join(f"{part}/" for part in prefix.split("/") if part)
        if self._prefix:
            checked(self._prefix[:-1])
        self.url = f"s3://{bucket}/{self._prefix}".rstrip("/")
        self._endpoint = _redacted(settings.endpoint or "AWS")
        self._answered = False
        config = Config(
            connect_timeout=self.connect_timeout,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 2},
            max_pool_connections=32,
            s3={"addressing_style": "path" if settings.path_style else "auto"},
            request_checksum_calculation=settings.checksums,
            response_checksum_validation=settings.checksums,
        )
        try:
            self._client: Any = boto3.session.Session().client(
                "s3", endpoint_url=settings.endpoint, region_name=settings.region, config=config
            )
        except ValueError as error:
            raise RecipeError(
                f"The S3 endpoint {self._endpoint!r} is not a URL",
                _redacted(str(error)),
                "Example: --set place.s3.endpoint=http://localhost:9000",
            ) from None
        except failures.BotoCoreError as error:
            raise self._named(error, "") from error

    def put(self, address: str, data: bytes | Path) -> None:
        where = {"Bucket": self._bucket, "Key": self._key(address)}

        def upload() -> None:
            if isinstance(data, Path):
                with data.open("rb") as file:
                    self._client.upload_fileobj(file, **where, Config=TRANSFER)
            else:
                self._client.put_object(**where, Body=data)

        self._ask(address, upload)

    def create(self, address: str, data: bytes) -> bool:
        key = self._key(address)

        def create() -> bool:
            try:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=data, IfNoneMatch="*")
            except failures.ClientError as error:
                if _status(error) == 412:
                    return False
                if _status(error) == 501 or _code(error) == "NotImplemented":
                    raise StoreUnavailable(
                        f"The S3 server at {self._endpoint} has no conditional puts",
                        "It does not support If-None-Match, so artefacts cannot be committed "
                        "exactly once.",
                        "Use a newer version of the server, another server, or a folder.",
                    ) from error
                raise
            return True

        return self._ask(address, create)

    def get(self, address: str) -> bytes:
        key = self._key(address)

        def get() -> bytes:
            body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
            data: bytes = body.read()
            return data

        return self._ask(address, get)

    def fetch(self, address: str, path: Path) -> tuple[int, str]:
        """See `Store.fetch`. Parts are received in parallel, each into its place in the file, and
        hashed there in order. Only a part that fails is requested again."""
        key, sha256, left = self._key(address), hashlib.sha256(), Event()

        def receive(at: int, tag: str = "") -> tuple[int, int, str]:
            return self._ask(address, partial(self._receive, key, path, at, tag, left))

        with storage_errors(path), path.open("w+b", buffering=0) as file:
            size, received, tag = receive(0)
            _hash(file, sha256, received)
            rest = range(received, size, PART)
            with ThreadPool(min(PARTS_AT_ONCE, len(rest) or 1)) as pool:
                try:
                    for _, end, _ in pool.imap(partial(receive, tag=tag), rest):
                        _hash(file, sha256, end)
                finally:
                    left.set()  # the pool's threads are not waited for
            return os.fstat(file.fileno()).st_size, sha256.hexdigest()

    def _receive(
        self, key: str, path: Path, at: int, tag: str, left: Event
    ) -> tuple[int, int, str]:
        """Receive the part that begins at `at` into its place in the file. A server without support
        for ranges returns everything as the first part.

        Returns:
            The object's size, the part's end, the object's tag.
        """
        asked = {"Range": f"bytes={at}-{at + PART - 1}"} | ({"IfMatch": tag} if tag else {})
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **asked)
        except failures.ClientError as error:
            if at or _status(error) != 416:
                raise
            answer = self._client.get_object(Bucket=self._bucket, Key=key)  # it is empty
        whole = answer.get("ContentRange", "").rpartition("/")[2]
        size = int(whole or answer["ContentLength"])
        buffer = memoryview(bytearray(CHUNK))
        # A separate descriptor: the other may be closed by now, and reused for another file.
        with closing(answer["Body"]) as body, path.open("r+b", buffering=0) as file:
            if not at:
                reserve(file.fileno(), size)
            file.seek(at)
            while not left.is_set() and (count := body.readinto(buffer)):
                file.write(buffer[:count])
                at += count
        return size, at, answer.get("ETag", "")

    def exists(self, address: str) -> bool:
        # Not HEAD: its answers have no body, so a missing bucket looks like a missing key.
        key = self._key(address)
        page = self._ask(
            address,
            lambda: self._client.list_objects_v2(Bucket=self._bucket, Prefix=key, MaxKeys=1),
        )
        return any(entry["Key"] == key for entry in page.get("Contents", ()))

    def list(self, prefix: str) -> Iterator[str]:
        return (found.address for found in self.scan(prefix))

    def scan(self, prefix: str) -> Iterator[Stored]:
        below = f"{self._key(prefix)}/" if prefix else self._prefix

        def pages() -> list[Stored]:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=below
            )
            return [
                Stored(
                    entry["Key"].removeprefix(self._prefix),
                    entry["Size"],
                    entry["LastModified"].timestamp(),
                )
                for page in pages
                for entry in page.get("Contents", ())
                # Keys that end in a slash are the "folders" of web consoles.
                if not entry["Key"].endswith("/")
            ]

        return iter(sorted(self._ask(prefix, pages)))

    def abandoned(self, before: float, delete: bool = False) -> int:
        where = {"Bucket": self._bucket}

        def pages() -> list[dict[str, Any]]:
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                **where, Prefix=self._prefix
            )
            return [each for page in pages for each in page.get("Uploads", ())]

        old = [each for each in self._ask("", pages) if each["Initiated"].timestamp() < before]
        for each in old if delete else ():
            gone = partial(
                self._client.abort_multipart_upload,
                **where,
                Key=each["Key"],
                UploadId=each["UploadId"],
            )
            self._ask("", gone)
        return len(old)

    def delete(self, address: str) -> None:
        key = self._key(address)
        self._ask(address, lambda: self._client.delete_object(Bucket=self._bucket, Key=key))

    def _key(self, address: str) -> str:
        return self._prefix + checked(address)

    def _ask(self, address: str, request: Callable[[], T]) -> T:
        retrying = Retrying(
            retry=retry_if_exception(self._may_pass),
            stop=stop_after_delay(self.patience),
            wait=wait_random_exponential(multiplier=0.5, max=8),
            reraise=True,
        )
        try:
            answer = retrying(request)
        except (failures.ClientError, failures.BotoCoreError, RetriesExceededError) as error:
            raise self._named(_cause(error), address) from error
        self._answered = True
        return answer

    def _may_pass(self, error: BaseException) -> bool:
        error = _cause(error)
        if isinstance(error, failures.ClientError):
            self._answered = True
            return _status(error) in BUSY or _code(error) == "RequestTimeout"
        lasting = isinstance(error, failures.SSLError)
        return isinstance(error, NO_ANSWER) and self._answered and not lasting

    def _named(self, error: BaseException, address: str) -> SiError:
        where = f"{self.url}/{address}".rstrip("/")
        detail = _redacted(f"{where} at {self._endpoint}: {error}")
        if isinstance(error, failures.ClientError):
            code = _code(error)
            if code in ("NoSuchKey", "404"):
                return ArtifactMissing(f"Nothing is at {where}")
            if code in CODES:
                headline, way_out = CODES[code]
                headline = headline.format(bucket=self._bucket, url=self.url)
                return StoreUnavailable(headline, detail, way_out)
            return StoreUnavailable(f"The S3 server refused the request: {code}", detail)
        if isinstance(error, failures.NoCredentialsError | failures.PartialCredentialsError):
            return StoreUnavailable("There are no credentials for the bucket", detail, CREDENTIALS)
        if isinstance(error, NO_ANSWER):
            return StoreUnavailable(
                f"The S3 server at {self._endpoint} does not answer",
                detail,
                (
                    "Check place.s3.endpoint, and that the server is running.",
                    "Then run the same command again: it resumes.",
                ),
            )
        return StoreUnavailable(f"The bucket {self._bucket} is unusable", detail)


def _hash(file: BinaryIO, sha256: "hashlib._Hash", end: int) -> None:
    """Hash the file from its current position to `end`."""
    while chunk := file.read(min(CHUNK, end - file.tell())):
        sha256.update(chunk)


def _cause(error: BaseException) -> BaseException:
    last = getattr(error, "last_exception", None)  # set on a RetriesExceededError
    return last if isinstance(last, BaseException) else error


def _code(error: failures.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: failures.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _redacted(text: str) -> str:
    """The text without user and password of an endpoint's URL."""
    return re.sub(r"//[^/@\s]*@", "//", text)
