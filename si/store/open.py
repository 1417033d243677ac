"""Opens the store that `place.store` names."""

import re
from pathlib import Path
from urllib.parse import unquote

from si.config.place import Place
from si.errors import RecipeError
from si.store.folder import FolderStore
from si.store.port import Store

FORMS = "A store is a folder (./si-runs, file:///data/si-runs) or s3://bucket/prefix."


def open_store(place: Place) -> Store:
    """The store that a place names. Nothing is read or written yet.

    Raises:
        RecipeError: if the scheme is unknown or the name is invalid.
    """
    scheme, rest = _split(place.store)
    if scheme == "":
        return FolderStore(Path(rest).expanduser())
    if scheme == "file":
        host, _, path = rest.removeprefix("//").partition("/")
        if rest.startswith("//") and host in ("", "localhost"):
            return FolderStore(Path("/" + unquote(path)))
        raise RecipeError(f"The store {place.store!r} is not on this machine", "", FORMS)
    if scheme == "s3":
        bucket, _, prefix = rest.removeprefix("//").partition("/")
        if rest.startswith("//") and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", bucket):
            # Importing boto3 takes time, so only with a bucket.
            from si.store.s3 import S3Store

            return S3Store(bucket, prefix, place.s3)
        raise RecipeError(f"The store {place.store!r} names no bucket", "", FORMS)
    raise RecipeError(f"Unknown store scheme {scheme}:", f"in {place.store!r}", FORMS)


def _split(store: str) -> tuple[str, str]:
    if not store.strip():
        raise RecipeError("place.store is empty", "", FORMS)
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", store)
    return (match.group(1).lower(), match.group(2)) if match else ("", store)
