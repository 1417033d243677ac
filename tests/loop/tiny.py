"""A tiny data set of sums, and a recipe for the scripted engines: runs in a second or two."""

import io
import random
from pathlib import Path

import pyarrow as pa
from PIL import Image

from si.datasets.sources import commit, fetch, parts
from si.embedded.families import content_id
from si.records import LEVEL_TABLE, level
from si.store.commit import Output
from si.store.keys import Spec
from si.store.port import Store
from tests.loop.scripted import write_policy

SIZES = {"train": 24, "dev": 8, "test": 8}


def tiny_data(store: Store, policy: Path | None = None) -> str:
    """Commit the data set, and give its address; with levels, made up, under `policy`."""
    made = random.Random(7)
    outputs: list[Output] = []
    seen: set[str] = set()
    ids: set[str] = set()
    for split, size in SIZES.items():
        queries = []
        while len(queries) < size:
            terms = [made.randint(1, 40) for _ in range(1 + len(queries) % 4)]
            question = "+".join(map(str, terms))
            if question in seen:
                continue
            seen.add(question)
            picture = Image.new("RGB", (8, 8), (len(seen), 20, 60))
            data = io.BytesIO()
            picture.save(data, "PNG")
            queries.append(
                {
                    "query_id": content_id([_array(picture)], question, str(sum(terms))),
                    "family": "sums",
                    "question": question,
                    "answer": str(sum(terms)),
                    "answer_kind": "number",
                    "difficulty": len(terms),
                    "rationale": None,
                    "images": [data.getvalue()],
                }
            )
        outputs.append(parts(queries, split))
        ids |= {query["query_id"] for query in queries}
    if policy is not None:
        rows = [{"query_id": q, "n": 4, "k": 3, "level": level(4, 3)} for q in sorted(ids)]
        facts = {"levels_policy": fetch(store, str(policy)).content, "levels_k": "4"}
        table = pa.Table.from_pylist(rows, LEVEL_TABLE)
        outputs.append(Output({"levels.parquet": table}, 0, facts))
    spec = Spec("synth", "sums", settings={}, params={"test": 1}, inputs={}, shards=len(outputs))
    return commit(store, spec, lambda shard: outputs[shard]).spec.address


def _array(picture: Image.Image):
    import numpy as np

    return np.asarray(picture)


def tiny_recipe(folder: Path, data: str, **more: object) -> Path:
    """A recipe file for the scripted engines on that data set."""
    import yaml

    policy = write_policy(folder / "scripted-policy", 0.6)
    recipe = {
        "name": "sums",
        "iterations": 2,
        "k": 4,
        "data": {"source": data, "slice_size": 12},
        "model": {"source": str(policy)},
        "sampling": {
            "engine": "tests.loop.scripted:ScriptedSampler",
            "max_new_tokens": 120,
        },
        "explore": {"shard_queries": 6},
        "train": {"trainer": "tests.loop.scripted:ScriptedTrainer", "batch": 8},
        "levels": {"k": 4},
    } | more
    path = folder / "sums.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
