"""The sample browser's data: which responses a page shows, and the block that its script reads.

A run may have hundreds of thousands of responses. Queries are chosen by a number keyed to each, in
turn from each level of each exploration. All responses of a chosen query are shown, so that readers
can follow it through the run. The choice reads only ids; afterwards the shards with chosen queries
are read one at a time.

The block is compressed JSON in base64, so its content cannot break out of the page's markup.
"""

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from si.datasets.dataset import IMAGES_FILE, QUERIES_FILE, Dataset
from si.errors import DataError
from si.randomness import keyed_seed
from si.records import EVALUATION, KEY
from si.report.sample_images import embed
from si.store.artifact import Artifact
from si.store.keys import Ref, Spec
from si.store.port import Store

LONGEST = 3000  # maximum characters of a response or question
SHORT = 300  # maximum characters of an answer
IMAGES = 4  # maximum images per query
READ = 256 << 20  # bytes of images from whose queries the choice is made
THREADS = 8  # shards read in parallel, since a bucket may answer slowly
MEGABYTE = 1_000_000
BASE64 = 4 / 3  # length of the text over that of the bytes

# How a response was drawn.
GREEDY, SAMPLED, FIRST, PLAIN, GUIDED = "greedy", "sampled", "first", "plain", "guided"
HELD_OUT = (GREEDY, SAMPLED)  # evaluation's


class Source(NamedTuple):
    """An exploration of the run: in iteration `t`, of training or held-out queries, with its
    verdicts."""

    t: int
    held_out: bool
    rollouts: Artifact
    verdicts: Artifact


class Query(NamedTuple):
    """A query as the page shows it; `images` are positions in `Responses.images`."""

    query_id: str
    split: str
    family: str
    level: str
    difficulty: int
    question: str
    answer: str
    images: list[int]
    images_left_out: int


class Response(NamedTuple):
    """A response as the page shows it.

    Attributes:
        query: position in `Responses.queries`.
        t: iteration. Its exploration samples the previous iteration's policy; its evaluation (how
            is in `HELD_OUT`) the policy that it trained.
        how: greedy or sampled (evaluation), first (round), plain or guided (second round).
        given: the prefix that the policy continued with `text`.
        more: characters left out after `text`.
        copies: number of times it is an example in iteration t's training.
    """

    query: int
    t: int
    how: str
    prefix_id: str
    sample: int
    given: str
    text: str
    more: int
    correct: bool
    extracted: str | None
    method: str
    finish_reason: str
    tokens: int
    tokens_given: int
    copies: int


class Responses(NamedTuple):
    """What the page shows, and the totals that it is chosen from.

    Attributes:
        queries: in the order of the data.
        responses: training's before evaluation's, by iteration, query, round, prefix and sample.
        images: data URIs without duplicates.
        total: responses of the run, without those that measured levels.
        total_queries: queries with a response.
    """

    queries: list[Query]
    responses: list[Response]
    images: list[str]
    total: int
    total_queries: int


def gather(
    store: Store,
    refs: Mapping[str, Ref],
    scratch: Path,
    seed: int,
    samples: int,
    text_mb: float,
    images_mb: float,
) -> Responses:
    """Choose the responses for the page, and read them with their queries and images.

    Args:
        refs: the report stage's inputs by role.
        samples, text_mb, images_mb: the limits of the recipe's `report` section.
    """
    found = list(_sources(store, refs))
    data = Dataset(Artifact.open(store, refs["data"]))
    with ThreadPoolExecutor(THREADS) as pool:
        within = _candidates(data, seed)
        counted = _counted(found, within, pool.map)
        levels = _levels(store, refs, counted)
        chosen = _chosen(counted, levels, seed, samples)
        rows = _read(found, chosen, pool.map)
    _count_copies(store, refs, scratch, rows)
    order = _fitting(chosen, rows, text_mb * MEGABYTE)
    asked = _queries(data, order)
    images, shown = _images(data, order, asked, images_mb * MEGABYTE)
    place = {query_id: i for i, query_id in enumerate(asked)}
    queries = [
        Query(
            query_id,
            row["split"],
            row["family"][:SHORT],
            levels.get(query_id, "?"),
            row["difficulty"],
            row["question"][:LONGEST],
            row["answer"][:SHORT],
            *shown[query_id],
        )
        for query_id, row in asked.items()
    ]
    responses = [
        _response(place[row["query_id"]], row) for query_id in asked for row in rows[query_id]
    ]
    responses.sort(key=lambda r: (r.how in HELD_OUT, r.t, r.query))  # the rest is in order
    total = sum(source.rollouts.manifest.rows for source in found)
    everybody = len(counted) if within is None else data.artifact.manifest.rows
    return Responses(queries, responses, images, total, everybody)


# --- choosing ------------------------------------------------------------------------------


def _sources(store: Store, refs: Mapping[str, Ref]) -> Iterator[Source]:
    t = 0
    while f"scores-{t}" in refs:
        for number in ("", "2"):
            if f"explore{number}-{t}" in refs and f"verify{number}-{t}" in refs:
                rollouts, verdicts = (
                    refs[f"{stage}{number}-{t}"] for stage in ("explore", "verify")
                )
                yield Source(t, False, *(Artifact.open(store, r) for r in (rollouts, verdicts)))
        scored = Spec.load(store, refs[f"scores-{t}"].address).inputs
        pair = (scored[role] for role in ("rollouts", "verdicts"))
        yield Source(t, True, *(Artifact.open(store, ref) for ref in pair))
        t += 1


def _candidates(data: Dataset, seed: int) -> pa.Array | None:
    """Ids of the queries to choose from: those in some parts of a large data set, so that not all
    of its images must be read. None means all."""
    parts = defaultdict(list)
    for record in data.artifact.manifest.shards:
        if "split" in record.facts:
            size = sum(blob.size for blob in record.blobs if blob.name == IMAGES_FILE)
            parts[record.facts["split"]].append((record.shard, size))
    if sum(size for split in parts.values() for _, size in split) <= READ:
        return None
    ids = []
    for split in parts.values():
        split.sort(key=lambda part: keyed_seed("report", seed, "part", part[0]))
        left = READ // len(parts)
        for number, (shard, size) in enumerate(split):
            left -= size
            if left < 0 and number:
                break
            ids.append(data.artifact.table(QUERIES_FILE, shard, ["query_id"])["query_id"])
    return pa.chunked_array([chunk for column in ids for chunk in column.chunks]).combine_chunks()


class _Count(NamedTuple):
    """How many responses a query has, and the first exploration that sampled it."""

    n: int
    first: int
    shards: list[tuple[int, int]]


def _counted(
    found: Sequence[Source], within: pa.Array | None, each: Callable[..., Iterator[Any]]
) -> dict[str, _Count]:
    """All sampled queries in `within`, by id; reads only the ids of verdicts."""

    def ids(task: tuple[int, int]) -> list[dict[str, Any]]:
        number, shard = task
        column = found[number].verdicts.table("verdicts.parquet", shard, ["query_id"])["query_id"]
        if within is not None:
            column = column.filter(pc.is_in(column, within))
        values: list[dict[str, Any]] = column.value_counts().to_pylist()
        return values

    tasks = [
        (number, record.shard)
        for number, source in enumerate(found)
        for record in source.verdicts.manifest.shards
    ]
    counted: dict[str, _Count] = {}
    for task, values in zip(tasks, each(ids, tasks), strict=True):
        for value in values:
            old = counted.get(value["values"]) or _Count(0, task[0], [])
            old.shards.append(task)
            counted[value["values"]] = old._replace(n=old.n + value["counts"])
    return counted


def _levels(store: Store, refs: Mapping[str, Ref], wanted: Iterable[str]) -> dict[str, str]:
    """Level by query id, from all artefacts with the run's levels."""
    places = {refs["levels"]}
    for role, ref in refs.items():
        if role.startswith("examples-"):
            places.add(Spec.load(store, ref.address).inputs["levels"])
    ids = pa.array(list(wanted), pa.string())
    level: dict[str, str] = {}
    for ref in sorted(places, key=lambda ref: ref.address):
        table = Artifact.open(store, ref).tables("levels.parquet", ["query_id", "level"])
        table = table.filter(pc.is_in(table["query_id"], ids))
        level |= zip(*(table[name].to_pylist() for name in ("query_id", "level")), strict=True)
    return level


def _chosen(
    counted: Mapping[str, _Count], levels: Mapping[str, str], seed: int, most: int
) -> dict[str, _Count]:
    """Queries with at most `most` responses in total, taken in turn from every level of every
    exploration, in a keyed order within each."""
    strata = defaultdict(list)
    for query_id, count in counted.items():
        strata[count.first, levels.get(query_id, "?")].append(query_id)
    for ids in strata.values():
        ids.sort(key=lambda query_id: keyed_seed("report", seed, query_id), reverse=True)
    chosen: dict[str, _Count] = {}
    waiting = [strata[key] for key in sorted(strata)]
    while waiting:
        for ids in waiting:
            count = counted[ids[-1]]
            if count.n > most:
                ids.clear()
                continue
            most -= count.n
            chosen[ids.pop()] = count
        waiting = [ids for ids in waiting if ids]
    return chosen


# --- reading -------------------------------------------------------------------------------


_ROLLOUT = [*KEY, "text", "token_ends", "prefix_len", "finish_reason"]
_VERDICT = [*KEY, "correct", "extracted", "method"]


def _read(
    found: Sequence[Source], chosen: Mapping[str, _Count], each: Callable[..., Iterator[Any]]
) -> dict[str, list[dict[str, Any]]]:
    """The chosen queries' responses with their verdicts, by query id."""
    ids = pa.array(list(chosen), pa.string())

    def rows(task: tuple[int, int]) -> list[dict[str, Any]]:
        source, shard = found[task[0]], task[1]
        rollouts = source.rollouts.table("rollouts.parquet", shard, _ROLLOUT)
        verdicts = source.verdicts.table("verdicts.parquet", shard, _VERDICT)
        if not rollouts.select(KEY).equals(verdicts.select(KEY)):
            raise DataError(
                "Rollouts and verdicts are not about the same samples",
                f"shard {shard} of {source.rollouts.address} and {source.verdicts.address}",
            )
        mask = pc.is_in(rollouts["query_id"], ids)
        pairs = zip(
            rollouts.filter(mask).to_pylist(), verdicts.filter(mask).to_pylist(), strict=True
        )
        return [
            rollout | verdict | {"t": source.t, "held_out": source.held_out, "copies": 0}
            for rollout, verdict in pairs
        ]

    tasks = sorted({task for count in chosen.values() for task in count.shards})
    by_query = defaultdict(list)
    for part in each(rows, tasks):
        for row in part:
            by_query[row["query_id"]].append(row)
    return by_query


def _count_copies(
    store: Store,
    refs: Mapping[str, Ref],
    scratch: Path,
    by_query: Mapping[str, Sequence[dict[str, Any]]],
) -> None:
    """Fill in how often each response is an example in its iteration's training."""
    rows = {
        (row["t"], *(row[name] for name in KEY)): row
        for rows in by_query.values()
        for row in rows
        if not row["held_out"]
    }
    for role, ref in refs.items():
        name, _, t = role.rpartition("-")
        if name != "examples":
            continue
        # There may be many examples with tokens and texts: only the ids are read from the file.
        folder = Artifact.open(store, ref).download(scratch / role)
        path = folder / "examples.parquet"
        used = pq.read_table(path, columns=KEY, filters=pc.field("query_id").isin(list(by_query)))
        path.unlink()
        counts = used.group_by(KEY).aggregate([([], "count_all")])
        for value in counts.to_pylist():
            row = rows.get((int(t), *(value[name] for name in KEY)))
            if row is not None:
                row["copies"] = value["count_all"]


def _fitting(
    chosen: Iterable[str], rows: Mapping[str, Sequence[Mapping[str, Any]]], most: float
) -> list[str]:
    """The first of the chosen queries whose text fits into `most` bytes of the page."""
    kept = []
    for query_id in chosen:
        # What a query's responses add to the block. Compressed separately: a slight overestimate.
        text = "\n".join(row["text"][:LONGEST] + str(row["extracted"]) for row in rows[query_id])
        most -= BASE64 * (len(zlib.compress(text.encode("utf-8", "replace"))) + len(rows[query_id]))
        if most < 0:
            break
        kept.append(query_id)
    return kept


def _queries(data: Dataset, order: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows of these queries by id, in the data's order."""
    table = data.table(
        columns=["query_id", "family", "difficulty", "question", "answer"],
    )
    table = table.filter(pc.is_in(table["query_id"], pa.array(order, pa.string())))
    return {row["query_id"]: row for row in table.to_pylist()}


def _images(
    data: Dataset, order: Sequence[str], asked: Iterable[str], most: float
) -> tuple[list[str], dict[str, tuple[list[int], int]]]:
    """Images as data URIs without duplicates, in the order of choice until `most` bytes are used;
    and by query id their positions, and how many are left out."""
    encoded = data.images(asked) if most else {}
    place: dict[str, int | None] = {}
    uris: list[str] = []
    shown: dict[str, tuple[list[int], int]] = dict.fromkeys(asked, ([], 0))
    full = False
    for query_id in order:
        images = encoded.get(query_id, ())
        places: list[int] = []
        for image in images[:IMAGES]:
            name = hashlib.sha256(image).hexdigest()
            if name not in place and not full:
                picture = embed(image)
                place[name] = None
                if picture is not None and len(picture.uri) <= most:
                    most -= len(picture.uri)
                    place[name] = len(uris)
                    uris.append(picture.uri)
                full = picture is not None and place[name] is None
            number = place.get(name)
            if number is not None:
                places.append(number)
        shown[query_id] = (places, len(images) - len(places))
    return uris, shown


def _response(query: int, row: Mapping[str, Any]) -> Response:
    text, given, ends = row["text"], row["prefix_len"], row["token_ends"]
    cut = ends[given - 1] if given else 0
    second = PLAIN if not row["prefix_id"] else GUIDED
    return Response(
        query,
        row["t"],
        {0: GREEDY, EVALUATION: SAMPLED, 1: FIRST}.get(row["round"], second),
        row["prefix_id"][:SHORT],
        row["sample"],
        text[:cut][:LONGEST],
        text[cut:LONGEST],
        max(0, len(text) - LONGEST),
        row["correct"],
        None if row["extracted"] is None else row["extracted"][:SHORT],
        row["method"],
        row["finish_reason"],
        len(ends),
        given,
        row["copies"],
    )
