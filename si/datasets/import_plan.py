"""Between an import's two passes: which rows are stored, in which split and which shard."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from si.datasets.import_source import Source
from si.records import SPLITS
from si.untrusted import one_line

SHARD_ROWS = 4000
SHARD_BYTES = 64 << 20  # of encoded images


class Bad(NamedTuple):
    """A row that cannot be used: where it is, its own id, the field at fault, and why."""

    place: str
    label: str
    field: str
    why: str

    def __str__(self) -> str:
        which = f" (id {self.label})" if self.label else ""
        return f"{self.place}{which}, {self.field}: {self.why}"


class PlannedRow(NamedTuple):
    """A row to store: its shard, its id, a digest of it, and whether its images are converted."""

    shard: int
    query_id: str
    mark: bytes
    changed: bool


@dataclass
class Plan:
    """What is stored where.

    Attributes:
        shards: the split of each shard.
        sizes: the number of rows of each shard.
        rows: for each file, row number -> what is planned for it; other rows are left out.
        bad: rows that cannot be used.
        dealt: how many rows got their split from their content, by shares.
        filled: splits that would have been empty, and got rows of another one.
        repeats: how many rows repeat an earlier one of their split, and are left out.
        overlaps: (earlier split, later split, location) of rows that an earlier split has, too.
            They are left out of the later one.
        changed: how images were converted -> for how many rows.
        digest: over the ids and contents of all rows that are stored.
    """

    shards: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    rows: list[dict[int, PlannedRow]] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    dealt: int = 0
    filled: list[str] = field(default_factory=list)
    repeats: int = 0
    overlaps: list[tuple[str, str, str]] = field(default_factory=list)
    changed: Counter[str] = field(default_factory=Counter)
    digest: str = ""


def plan_import(source: Source, notes: pa.Table) -> Plan:
    """The plan for a checked source; a pure function of the notes and of `source.splits`.

    Args:
        notes: from `si.datasets.import_check.check`.
    """
    plan = Plan(rows=[{} for _ in source.files])
    by_split: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    dealt: list[dict[str, Any]] = []
    for batch in notes.to_batches(max_chunksize=10_000):
        for note in batch.to_pylist():
            if note["field"] is not None:
                location = _location(source, note)
                plan.bad.append(Bad(location, note["label"], note["field"], note["why"]))
            else:
                split = source.splits.deal(note["split"], note["group"])
                by_split[split].append(note)
                if source.splits.deals(note["split"]):
                    dealt.append(note | {"dealt": split})
    plan.dealt = len(dealt)
    plan.filled = fill_empty(by_split, dealt, [s for s in SPLITS if source.splits.asks(s)])
    first_split: dict[str, str] = {}  # query id -> the split that stores it
    everything = hashlib.sha256()
    for split, of_split in by_split.items():
        size = SHARD_BYTES  # of the open shard; full, so that the first row opens one
        for note in of_split:
            query_id = note["query_id"]
            earlier = first_split.setdefault(query_id, "")
            if earlier == split:
                plan.repeats += 1
            elif earlier:
                plan.overlaps.append((earlier, split, _location(source, note)))
            else:
                first_split[query_id] = split
                if size >= SHARD_BYTES or plan.sizes[-1] >= SHARD_ROWS:
                    plan.shards.append(split)
                    plan.sizes.append(0)
                    size = 0
                size += note["size"]
                _add(plan, note)
                everything.update(f"{split} {query_id} {note['mark'].hex()}\n".encode())
    plan.digest = everything.hexdigest()
    return plan


def fill_empty(
    by_split: dict[str, list[dict[str, Any]]],
    dealt: Sequence[Mapping[str, Any]],
    asked: Sequence[str],
) -> list[str]:
    """Give each empty split that was asked for the rows of one image of the largest split.

    Which images are moved depends on their content alone. With fewer images than splits, some stay
    empty.

    Args:
        by_split: split -> notes; is changed.
        dealt: notes of rows that were dealt by content, with `dealt`, the split they got.
        asked: the splits that rows are dealt to.

    Returns:
        The splits that were filled.
    """
    groups: dict[str, set[bytes]] = {}
    for note in dealt:
        groups.setdefault(note["dealt"], set()).add(note["group"])
    filled: list[str] = []
    for split in asked if dealt else ():
        if by_split[split]:
            continue
        fullest = max(groups, key=lambda name: len(groups[name]))
        if len(groups[fullest]) < 2:
            break
        chosen = min(groups[fullest], key=lambda group: hashlib.sha256(b"fill" + group).digest())
        groups[fullest].remove(chosen)
        moved = [note for note in by_split[fullest] if note["group"] == chosen]
        by_split[fullest] = [note for note in by_split[fullest] if note["group"] != chosen]
        by_split[split] += moved
        filled.append(split)
    return filled


def _add(plan: Plan, note: Mapping[str, Any]) -> None:
    """Plan a row for the last shard."""
    plan.sizes[-1] += 1
    changed = note["changed"]
    row = PlannedRow(len(plan.shards) - 1, note["query_id"], note["mark"], changed is not None)
    plan.rows[note["file"]][note["row"]] = row
    if changed:
        plan.changed[changed] += 1


def _location(source: Source, note: Mapping[str, Any]) -> str:
    return one_line(source.files[note["file"]].location(note["row"]), 300)
