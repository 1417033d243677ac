"""Fetch models and data sets from the Hugging Face hub, through its local cache, into the store.

Code in a repository is neither fetched nor run.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from si.datasets.columns import parse_map
from si.datasets.importing import Source, import_data
from si.datasets.sources import HUB_NAME, fetch, named
from si.datasets.splits import Splits
from si.engines.families import CONFIG, read_config
from si.engines.families.internvl import InternVL
from si.errors import DataError, RecipeError, SiError, StoreUnavailable
from si.events import Event
from si.machine import packages
from si.store.commit import Manifest
from si.store.port import Store

NAME = re.compile(HUB_NAME)
CONVERTED = "refs/convert/parquet"  # the branch with the hub's own Parquet conversion
# The files of a policy: weights, configs, tokenizer, chat templates, licences.
POLICY_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*"]


class HuggingFace:
    """The Hugging Face hub as a `si.datasets.port.Hub`.

    Args:
        notes: a folder for an import's notes, from which it continues after a kill.
        on_event: receives the progress of an import (`si.datasets.importing.import_data`).
    """

    def __init__(self, notes: Path, on_event: Callable[[Event], None] = lambda _: None):
        self.notes = notes
        self.on_event = on_event

    def policy(self, store: Store, name: str) -> Manifest:
        """Commit the model `owner/name` or `owner/name@revision`; its commit becomes provenance.

        Raises:
            RecipeError, StoreUnavailable: as `download_model`.
        """
        folder, origin = download_model(name)
        source = {"source": origin}
        if not needs_conversion(folder):
            return fetch(store, str(folder), name=name, provenance=source)
        packages.check(f"Converting {name}", "local")
        from si.engines.convert_internvl import convert

        with TemporaryDirectory(prefix="si-convert-") as scratch:
            made = convert(folder, Path(scratch) / "model")
            return fetch(store, str(made), name=name, provenance=source | {"converted": True})

    def data(self, store: Store, wish: Mapping[str, Any]) -> Manifest:
        """Commit the data set that a recipe's `data` settings (by dotted name) describe.

        Raises:
            DataError: if it cannot be fetched, or its rows cannot be used.
            StoreUnavailable: if the hub does not answer.
        """
        name = wish["data.source"].removeprefix("hub:")
        mapped, splits = parse_map(wish["data.map"]), Splits.parse(wish["data.split"])
        folder, origin = download(name)
        source = Source.open(folder, mapped, splits, wish["data.answer_kind"], origin)
        made = import_data(
            store, source, named(name), self.notes, wish["data.skip_bad"], self.on_event
        )
        return made.manifest


def download(name: str) -> tuple[Path, str]:
    """Fetch a data set's Parquet files; those in the hub's cache are not fetched again.

    Args:
        name: `owner/name` or `owner/name@revision`.

    Returns:
        The folder with the files, and the data set's name with its commit, `hf:owner/name@commit`.

    Raises:
        DataError: if the data set does not exist, is not accessible, or has no Parquet files.
        StoreUnavailable: if the hub does not answer.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    with _hub_errors(name, "data set", DataError):
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
    raise DataError(
        f"The data set {name} has no Parquet files",
        "si-ctl fetches only those",
        "Download its files to a folder, and import that folder.",
    )


def needs_conversion(folder: Path) -> bool:
    """Whether the model in a folder is implemented by code of its repository.

    Such a model is converted to the architecture that transformers implements.
    """
    return read_config(folder, foreign=True)["model_type"] in InternVL.foreign_types


def download_model(name: str) -> tuple[Path, str]:
    """Fetch a model's files; those in the hub's cache are not fetched again.

    Its config is checked first: an unusable model is refused before its weights are fetched.

    Args:
        name: `owner/name` or `owner/name@revision`.

    Returns:
        The folder with the files, and the model's name with its commit, `hf:owner/name@commit`.

    Raises:
        RecipeError: if the model does not exist, is not accessible, or cannot be used.
        StoreUnavailable: if the hub does not answer.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    with _hub_errors(name, "model", RecipeError):
        # The first call resolves the commit, and the second one fetches from the same.
        config = Path(
            snapshot_download(repository, revision=revision or "main", allow_patterns=CONFIG)
        )
        if needs_conversion(config):
            packages.check(f"Converting {name}", "local")
            from si.engines.convert_internvl import check

            check(config, name)
        folder = Path(
            snapshot_download(repository, revision=config.name, allow_patterns=POLICY_FILES)
        )
    if not next(folder.glob("*.safetensors"), None):
        raise RecipeError(
            f"The model {name} has no safetensors files",
            "other weights may contain code, and are not fetched",
            "Name a revision or a repository that has them.",
        )
    return folder, f"hf:{repository}@{folder.name}"


@contextmanager
def _hub_errors(name: str, what: str, refusal: type[SiError]) -> Iterator[None]:
    """Translate the hub's exceptions: `refusal` if another attempt would fail in the same way.

    Args:
        name: the repository, with its revision if one is named.
        what: `model` or `data set`.
    """
    from huggingface_hub import errors

    try:
        yield
    except SiError:
        raise
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise refusal(
            f"There is no file or folder {name}, and no {what} of that name on the hub that you "
            "can access",
            _first_line(error),
            (
                "Check the name: it is owner/name, as in the address of its page.",
                f"A private or gated {what} needs a token: hf auth login, or HF_TOKEN",
            ),
        ) from error
    except errors.HFValidationError as error:
        raise refusal(f"{name!r} is not a valid name of a {what}", str(error)) from error
    except (
        # The base of what the HTTP client raises, and of the hub's answers that are errors.
        errors.HTTPError,  # type: ignore[attr-defined]
        errors.LocalEntryNotFoundError,  # no answer, and not in the cache
        errors.XetDownloadError,
        ConnectionError,
        TimeoutError,
    ) as error:
        raise _unreachable(name, what, error) from error
    except OSError as error:
        raise StoreUnavailable(
            f"The {what} {name} cannot be written to the hub's cache on this machine",
            _first_line(error),
            "Free some space, or put the cache on another disk: set HF_HOME to a folder there.",
        ) from error


def _unreachable(name: str, what: str, error: Exception) -> StoreUnavailable:
    is_data = what == "data set"
    kind = "--repo-type dataset " if is_data else ""
    then = "import that folder" if is_data else "use that folder: --set model.source=FOLDER"
    return StoreUnavailable(
        f"There is no file or folder {name}, and the Hugging Face hub cannot be reached",
        _first_line(error.__cause__ or error),
        (
            "If you meant a file or a folder, correct its path.",
            f"Download it where the hub is reachable, and {then}: "
            f"hf download {kind}{name.partition('@')[0]} --local-dir FOLDER",
            "Behind a mirror or a proxy, set HF_ENDPOINT or HTTPS_PROXY.",
        ),
    )


def _first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
