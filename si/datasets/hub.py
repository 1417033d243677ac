"""The Hugging Face hub: models and data sets, fetched into the hub's own cache and from there into
the store. Code that a repository holds is neither fetched nor run."""

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
CONVERTED = "refs/convert/parquet"  # where the hub keeps what it converted itself
# What a policy is made of: weights, configs, tokenizer, templates, terms.
POLICY_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*"]


class HuggingFace:
    """`ports.Hub`.

    Args:
        notes: a folder for an import's notes, from which it goes on if it is killed.
        on_event: hears of an import's progress.
    """

    def __init__(self, notes: Path, on_event: Callable[[Event], None] = lambda _: None):
        self.notes = notes
        self.on_event = on_event

    def policy(self, store: Store, name: str) -> Manifest:
        """Commit the model `owner/name`, or `owner/name@revision`; provenance has its commit."""
        folder, origin = download_model(name)
        source = {"source": origin}
        if not foreign(folder):
            return fetch(store, str(folder), name=name, provenance=source)
        packages.check(f"Converting {name}", "local")
        from si.engines.convert_internvl import convert

        with TemporaryDirectory(prefix="si-convert-") as scratch:
            made = convert(folder, Path(scratch) / "model")
            return fetch(store, str(made), name=name, provenance=source | {"converted": True})

    def data(self, store: Store, wish: Mapping[str, Any]) -> Manifest:
        """Commit a data set, its rows read as the recipe's `data` settings say."""
        name = wish["data.source"].removeprefix("hub:")
        mapped, splits = parse_map(wish["data.map"]), Splits.parse(wish["data.split"])
        folder, origin = download(name)
        source = Source.open(folder, mapped, splits, wish["data.answer_kind"], origin)
        made = import_data(
            store, source, named(name), self.notes, wish["data.skip_bad"], self.on_event
        )
        return made.manifest


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

    repository, _, revision = name.partition("@")
    with _said(name, "data set", DataError):
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
        "only those are fetched",
        "Fetch its files to a folder, and import that.",
    )


def foreign(folder: Path) -> bool:
    """Whether the model in a folder brings code of its own, and has to be converted."""
    return read_config(folder, foreign=True)["model_type"] in InternVL.foreign_types


def download_model(name: str) -> tuple[Path, str]:
    """The folder with a model's files, and its name with the commit that it is.

    Its config is looked at first: what cannot be used is refused before the weights are fetched.

    Args:
        name: `owner/name`, or `owner/name@revision`.

    Raises:
        RecipeError: if there is no such model, it may not be read, or cannot be used.
        StoreUnavailable: if the hub does not answer.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    with _said(name, "model", RecipeError):
        # The commit is fixed by the first call; what the second fetches is of the same.
        small = Path(
            snapshot_download(repository, revision=revision or "main", allow_patterns=CONFIG)
        )
        if foreign(small):
            packages.check(f"Converting {name}", "local")
            from si.engines.convert_internvl import check

            check(small, name)
        folder = Path(
            snapshot_download(repository, revision=small.name, allow_patterns=POLICY_FILES)
        )
    if not next(folder.glob("*.safetensors"), None):
        raise RecipeError(
            f"The model {name} has no safetensors files",
            "other weights may hold code, and are not fetched",
            "Name a revision or another repository that has them.",
        )
    return folder, f"hf:{repository}@{folder.name}"


@contextmanager
def _said(name: str, what: str, refusal: type[SiError]) -> Iterator[None]:
    """The hub's errors in our words: `refusal` where trying again gives the same answer."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository = name.partition("@")[0]
    kind = "--repo-type dataset " if what == "data set" else ""
    bring = "import that" if kind else "name that: --set model.source=FOLDER"
    try:
        yield
    except SiError:
        raise
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError) as error:
        raise refusal(
            f"There is no file or folder {name}, and no {what} of that name on the hub that "
            "may be read",
            str(error).strip().splitlines()[0],
            (
                "Is the name right? It is owner/name, as in the page's address.",
                f"A private or gated {what} needs a token: hf auth login, or HF_TOKEN",
            ),
        ) from error
    except HFValidationError as error:
        raise refusal(f"{name!r} is no name of a {what}", str(error)) from error
    except Exception as error:
        raise StoreUnavailable(
            f"There is no file or folder {name}, and the Hugging Face hub cannot be reached",
            (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0],
            (
                "Is it a file or a folder? Then mend its path.",
                f"Where the hub is reachable, fetch it to a folder, and {bring}: "
                f"hf download {kind}{repository} --local-dir FOLDER",
                "Behind a mirror or a proxy, set HF_ENDPOINT or HTTPS_PROXY.",
            ),
        ) from error
