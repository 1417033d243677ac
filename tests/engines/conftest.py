"""Queries and training rows for the embedded policy."""

from pathlib import Path

import pytest

from si.config.recipe import Recipe
from si.datasets.dataset import Dataset
from si.datasets.sources import synth
from si.embedded import EMBEDDED_POLICY
from si.records import Query, Request
from si.store.artifact import Artifact
from si.store.folder import FolderStore
from tests.unit.settings import sampling

SAMPLING = Recipe().sampling
GREEDY = sampling(temperature=0.0)


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
