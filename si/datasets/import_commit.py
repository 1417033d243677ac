"""Second pass of an import: read the source again, and commit it shard by shard."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from si import __version__
from si.datasets.import_check import WINDOW, digest_of
from si.datasets.import_plan import Plan, PlannedRow
from si.datasets.import_source import Source
from si.datasets.row_images import BadRow
from si.datasets.rows import File
from si.datasets.sources import parts
from si.errors import StageFailed
from si.events import Event
from si.lookahead import ordered_map
from si.readers.reading import Row
from si.store.commit import Manifest, announce, commit_shard, committed, finish
from si.store.keys import Spec
from si.store.port import Store

Query = dict[str, Any]  # a row of QUERIES with `images`


class SourceChanged(Exception):
    """A row of the source differs from the one that was checked."""


def commit_import(
    store: Store,
    spec: Spec,
    source: Source,
    plan: Plan,
    pool: ThreadPoolExecutor,
    on_event: Callable[[Event], None],
) -> Manifest:
    """Commit the shards of a plan that are missing, then the manifest.

    At most one open shard for each split is in memory.

    Args:
        on_event: receives `commit` events: `done` rows of `total`.

    Raises:
        SourceChanged: if a row was changed or removed since it was checked.
    """
    announce(store, spec)
    there = committed(store, spec.address)
    done = sum(size for shard, size in enumerate(plan.sizes) if shard in there)
    total = sum(plan.sizes)
    on_event({"event": "commit", "done": done, "total": total})
    provenance = {"source": source.origin, "columns": source.columns, "version": __version__}
    open_shards: dict[int, list[Query]] = {}
    for shard, query in _queries(source, plan, pool, set(there), spec.name):
        open_shards.setdefault(shard, []).append(query)
        if len(open_shards[shard]) == plan.sizes[shard]:
            output = parts(open_shards.pop(shard), plan.shards[shard])
            output.provenance = provenance | {"time": time.time()}
            commit_shard(store, spec, shard, output)
            done += output.rows
            on_event({"event": "commit", "done": done, "total": total})
    if open_shards:
        raise SourceChanged("rows that were checked have been removed")
    manifest = finish(store, spec)
    if manifest is None:
        raise StageFailed(
            f"The data set {spec.address} is incomplete after its last shard was committed",
            f"in {store.url}",
            "Run the same command again.",
        )
    return manifest


def _queries(
    source: Source, plan: Plan, pool: ThreadPoolExecutor, there: set[int], family: str
) -> Iterator[tuple[int, Query]]:
    """The rows of shards that are not committed (`there`), each with its shard, in file order."""
    for file, planned in zip(source.files, plan.rows, strict=True):
        wanted = sorted(row for row, where in planned.items() if where.shard not in there)
        if wanted:
            make = partial(_query, source, file, planned, family)
            yield from ordered_map(pool, make, source.read(file, wanted), WINDOW)


def _query(
    source: Source,
    file: File,
    planned: dict[int, PlannedRow],
    family: str,
    item: tuple[int, Row | str],
) -> tuple[int, Query]:
    """A row's shard, and the row as it is stored, if its contents are those that were checked."""
    from si.datasets.images import fit

    plan = planned[item[0]]
    try:
        row = source.parse(file, item[1])
    except BadRow as error:
        raise SourceChanged(str(error)) from error
    if digest_of(row) != plan.mark:
        raise SourceChanged(f"the contents of query {plan.query_id} differ now")
    return plan.shard, {
        "query_id": plan.query_id,
        "family": row.family or family,
        "question": row.question,
        "answer": row.answer,
        "answer_kind": row.kind,
        "difficulty": row.difficulty,
        "rationale": row.rationale,
        "choices": list(row.choices) or None,
        "accepted": list(row.accepted) or None,
        "images": [fit(image).data if plan.changed else image for image in row.images],
    }
