"""The Hugging Face hub: a data set's Parquet files, fetched into the hub's own cache."""

import re
from pathlib import Path

from si.errors import DataError, StoreUnavailable

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
CONVERTED = "refs/convert/parquet"  # where the hub keeps what it converted itself


def download(name: str) -> tuple[Path, str]:
    """The folder with a data set's Parquet files, and its name with the commit that it is.

    What is in the hub's cache is not fetched again.

    Args:
        name: `owner/name`, or `owner/name@revision`.

    Raises:
        DataError: if there is no such data set, it may not be read, or it has no Parquet files.
        StoreUnavailable: if the hub does not answer.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    try:
        for wanted in (revision or "main", CONVERTED):
            folder = Path(
                snapshot_download(
                    repository, repo_type="dataset", revision=wanted, allow_patterns="*.parquet"
                )
            )
            if next(folder.rglob("*.parquet"), None):
                return folder, f"hf:{repository}@{folder.name}"
            if revision:
                break
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError) as error:
        raise DataError(
            f"There is no file or folder {name}, and no data set of that name on the hub that "
            "may be read",
            str(error).strip().splitlines()[0],
            (
                "Is the name right? It is owner/name, as in the page's address.",
                "A private or gated data set needs a token: hf auth login, or HF_TOKEN",
            ),
        ) from error
    except HFValidationError as error:
        raise DataError(f"{name!r} is no name of a data set", str(error)) from error
    except Exception as error:
        raise StoreUnavailable(
            f"There is no file or folder {name}, and the Hugging Face hub cannot be reached",
            (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0],
            (
                "Is it a file or a folder? Then mend its path.",
                "Where the hub is reachable, fetch it to a folder, and import that: "
                f"hf download --repo-type dataset {repository} --local-dir FOLDER",
                "Behind a mirror or a proxy, set HF_ENDPOINT or HTTPS_PROXY.",
            ),
        ) from error
    raise DataError(
        f"The data set {name} has no Parquet files",
        "only those are fetched",
        "Fetch its files to a folder, and import that.",
    )
