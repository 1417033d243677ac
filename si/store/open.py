"""From the place's `store` to the adapter that serves it."""

import re
from pathlib import Path
from urllib.parse import unquote

from si.config.place import Place
from si.errors import RecipeError
from si.store.folder import FolderStore
from si.store.port import Store

FORMS = "A store is a folder (./si-runs, file:///data/si-runs) or s3://bucket/prefix."


def open_store(place: Place) -> Store:
    """The store that a place names; nothing is read or written yet.

    Raises:
        RecipeError: for a scheme that no adapter serves, or a name that cannot be one.
    """
    scheme, rest = _split(place.store)
    if scheme == "":
        return FolderStore(Path(rest).expanduser())
    if scheme == "file":
        host, _, path = rest.removeprefix("//").partition("/")
        if rest.startswith("//") and host in ("", "localhost"):
            return FolderStore(Path("/" + unquote(path)))
        raise RecipeError(f"The store {place.store!r} is no file on this machine", "", FORMS)
    if scheme == "s3":
        bucket, _, prefix = rest.removeprefix("//").partition("/")
        if rest.startswith("//") and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", bucket):
            # Only those who use a bucket pay for importing boto3.
            from si.store.s3 import S3Store

            return S3Store(bucket, prefix, place.s3)
        raise RecipeError(f"The store {place.store!r} names no bucket", "", FORMS)
    raise RecipeError(f"No store is known for the scheme {scheme}:", f"in {place.store!r}", FORMS)


def _split(store: str) -> tuple[str, str]:
    if not store.strip():
        raise RecipeError("The store has no name", "place.store is empty", FORMS)
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", store)
    return (match.group(1).lower(), match.group(2)) if match else ("", store)
