"""Read a committed data set: queries without their images, and images when they are needed.

A data set is an artefact whose shards are called parts. Each part belongs to one split (its fact
`split`) and holds `queries.parquet` and `images.parquet`. The order of the parts, and of the rows
in them, is the data's order; training slices are counted along it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from si.errors import DataError
from si.records import OPTIONAL, QUERIES, Query
from si.store.artifact import Artifact

QUERIES_FILE = "queries.parquet"
IMAGES_FILE = "images.parquet"


class Dataset:
    """The queries and images of a data set artefact."""

    def __init__(self, artifact: Artifact):
        self.artifact = artifact

    def _parts(self, split: str | None) -> Iterator[int]:
        for record in self.artifact.manifest.shards:
            part = record.facts.get("split")
            if part is not None and split in (None, part):
                yield record.shard

    def size(self, split: str) -> int:
        """Number of queries in a split."""
        shards = self.artifact.manifest.shards
        return sum(record.rows for record in shards if record.facts.get("split") == split)

    def separators(self) -> Mapping[str, str]:
        """Family -> the text that ends a step; families that declare none use a line break."""
        declared: Mapping[str, str] = self.artifact.manifest.facts.get("separators", {})
        return declared

    def table(self, split: str | None = None, columns: list[str] | None = None) -> pa.Table:
        """The queries in the data's order, without images.

        Args:
            split: a split; all if None, with a column `split` added.
            columns: names of the columns to read; all if None.

        Raises:
            DataError: if the data set has no queries in that split.
        """
        parts = []
        for shard in self._parts(split):
            part = self.artifact.table(QUERIES_FILE, shard, columns)
            if split is None:
                name = self.artifact.manifest.shards[shard].facts["split"]
                part = part.append_column("split", pa.array([name] * len(part), pa.string()))
            parts.append(part)
        if not parts:
            raise DataError(
                f"The data set {self.artifact.address} has no {split or 'queries'}",
                "splits: "
                + ", ".join(sorted({str(r.facts.get("split")) for r in self._records()})),
            )
        return pa.concat_tables(parts, promote_options="default")

    def parts(self) -> Iterator[tuple[str, list[Query]]]:
        """All queries with their images, in the data's order, one part in memory at a time.

        Yields:
            (split, queries) of each part.
        """
        for shard in self._parts(None):
            rows = self.artifact.table(QUERIES_FILE, shard)
            images = self.artifact.table(IMAGES_FILE, shard)
            if not rows["query_id"].equals(images["query_id"]):
                raise DataError(
                    f"Part {shard} of the data set {self.artifact.address} is inconsistent",
                    f"{len(rows)} queries, but images of {len(images)}, or in another order",
                )
            pictures = images["images"].to_pylist()
            queries = [
                Query(**row, images=tuple(found))
                for row, found in zip(rows.to_pylist(), pictures, strict=True)
            ]
            yield self.artifact.manifest.shards[shard].facts["split"], queries

    def _records(self) -> Iterable[Any]:
        return [r for r in self.artifact.manifest.shards if "split" in r.facts]

    def select(self, selection: Iterable[Mapping[str, Any]]) -> pa.Table:
        """The queries of slices of splits, without images, in the data's order.

        Args:
            selection: mappings with `split`, and optionally `start` and `stop` (None: the end),
                row numbers in the split.
        """
        parts = []
        for piece in selection:
            start, stop = piece.get("start", 0), piece.get("stop")
            whole = self.table(piece["split"])
            parts.append(whole.slice(start, None if stop is None else stop - start))
        return pa.concat_tables(parts, promote_options="default")

    def queries(self, rows: pa.Table, images: bool = False) -> list[Query]:
        """Rows of `table` or `select` as records; with their images if `images`."""
        pictures = self.images(rows["query_id"].to_pylist()) if images else {}
        known = (*QUERIES.names, *(each.name for each in OPTIONAL))
        names = [name for name in known if name in rows.column_names]
        return [
            Query(**row, images=pictures.get(row["query_id"], ()))
            for row in rows.select(names).to_pylist()
        ]

    def images(self, query_ids: Iterable[str]) -> dict[str, tuple[bytes, ...]]:
        """Query id -> encoded images; of parts without any of the queries, only ids are read."""
        wanted = pa.array(sorted(set(query_ids)), pa.string())
        found: dict[str, tuple[bytes, ...]] = {}
        for shard in self._parts(None):
            ids = self.artifact.table(QUERIES_FILE, shard, ["query_id"])["query_id"]
            if not pc.any(pc.is_in(ids, wanted)).as_py():
                continue
            part = self.artifact.table(IMAGES_FILE, shard)
            part = part.filter(pc.is_in(part["query_id"], wanted))
            for row in part.to_pylist():
                found[row["query_id"]] = tuple(row["images"])
            if len(found) == len(wanted):
                break
        return found
