"""Queries and training rows for the embedded policy."""

from pathlib import Path

import pytest

from si.adapters.folder import FolderStore
from si.artifacts import Artifact
from si.config import Recipe
from si.data import EMBEDDED_POLICY, synth
from si.dataset import Dataset
from si.records import Query, Request

SAMPLING = Recipe().sampling.model_dump(mode="json")


@pytest.fixture(scope="session")
def policy() -> Path:
    return EMBEDDED_POLICY


@pytest.fixture(scope="session")
def queries(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Query, tuple[bytes, ...]]]:
    """Fifty queries of the embedded data's test split, with their pictures."""
    store = FolderStore(tmp_path_factory.mktemp("store"))
    data = Dataset(Artifact(store, synth(store, "synth:embedded", {})))
    chosen = list(data.queries(data.select([{"split": "test", "start": 0, "stop": 50}])))
    images = data.images(query.query_id for query in chosen)
    return [(query, images.get(query.query_id, ())) for query in chosen]


@pytest.fixture(scope="session")
def greedy(queries: list[tuple[Query, tuple[bytes, ...]]]) -> list[Request]:
    return [Request(query.question, images, (0,)) for query, images in queries]
