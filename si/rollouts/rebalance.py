"""Turn rollouts into training rows, or into the draws of a second round.

The rules are those of `si.strategies`, with the random seeds of the loop, so that equal rollouts
give equal rows whichever tool wrote them. The rules work on numbers; texts are passed batch by
batch into the file (`si.rollouts.layouts`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from si.errors import DataError, RecipeError
from si.machine.files import check
from si.metrics import Array
from si.randomness import keyed_rng
from si.records import Draw, Outcome, Trajectory
from si.rollouts.identity import merged_queries
from si.rollouts.layouts import SUFFIXES, TrainingRows, write
from si.rollouts.table import Groups, Rollouts, Verdicts, group, judge
from si.rollouts.trainers import check_config, write_beside
from si.rollouts.training_images import ImageIndex, ImageWriter
from si.strategies import Strategy, by_name, rule_of, uses


@dataclass(frozen=True)
class Rebalanced:
    """The result of `rebalance`.

    Attributes:
        kind: examples or draws.
        rows: rows of the file or table.
        samples: how many samples the draws request; 0 for examples.
        successes: correct samples among the rollouts.
        queries: how many queries have a row.
        k: K, samples per query, as the strategy counted them.
        threshold: the lowest reward that counted as correct.
        path: the file with the rows; None if they are in `table`.
        notes: for the user, on how the rows were made.
    """

    strategy: str
    layout: str
    kind: str
    rows: int
    samples: int
    successes: int
    queries: int
    k: int
    threshold: float
    path: str | None = None
    notes: list[str] = field(default_factory=list)
    table: pa.Table | None = None

    def to_json(self) -> dict[str, Any]:
        """All attributes but `table`, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "table"}


def rebalance(
    rollouts: Rollouts,
    strategy: str,
    layout: str = "trl",
    out: Path | None = None,
    seed: int = 0,
    threshold: float | None = None,
    k: int | None = None,
    force: bool = False,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    data: ImageIndex | None = None,
    copy_images: bool = False,
) -> Rebalanced:
    """Write the training rows that a strategy makes of rollouts, or its draws if it resamples.

    Args:
        strategy: vanilla, tc, rp, ar, gr, or a composition such as gr+tc.
        layout: of training rows: trl, sharegpt, verl, swift or jsonl. Draws have one layout.
        out: the file to write; None for a table in memory.
        seed: random seed.
        threshold: lowest reward of a success; see `si.rollouts.table.judge`.
        k: K; by default the most common number of samples per query and step.
        force: overwrite an existing file.
        settings: of the strategies, as `si.strategies.by_name` takes them.
        data: has the images of rollouts without images.
        copy_images: copy the images that are files into a folder beside `out`.

    Raises:
        RecipeError: for an unknown strategy or layout, or a suffix that the layout does not have.
        DataError: if the file exists already, no sample is correct, or responses are missing.
    """
    try:
        rule = by_name(strategy, **(settings or {}))
    except ValueError as error:
        raise RecipeError(str(error)) from error
    resamples = rule_of(strategy, "resample") != "vanilla"
    _check(layout, out, resamples, force)
    verdicts = judge(rollouts, threshold)
    groups = group(rollouts, verdicts.right)
    size = k or rollouts.k or groups.k
    notes = list(rollouts.source.notes)
    if warning := merged_queries(rollouts, groups):
        notes.insert(0, f"Warning: {warning}")
    work = _Work(rollouts, groups, verdicts.right, rule, size, seed)
    made = _result(strategy, layout, verdicts, size, out, notes)
    if resamples:
        return _written_draws(work.draws(), strategy, notes, out, force, made)
    used = work.used()
    if not used.any():
        raise _nothing_correct(verdicts)
    images = ImageWriter(out, copy_images) if out else None
    source = rollouts.source.layout.name
    writer = TrainingRows(layout, out, source, notes, _placing(images, out))
    count, table = write(work.examples(used, writer, data), writer.schema, out, force)
    notes += write_beside(layout, out, writer.images, force) if out else []
    notes += images.notes() if images else []
    queries = len(np.unique(rollouts.query[used > 0]))
    return made(kind="examples", rows=count, samples=0, queries=queries, table=table)


def _written_draws(
    requested: Iterator[dict[str, Any]],
    strategy: str,
    notes: list[str],
    out: Path | None,
    force: bool,
    made: Callable[..., Rebalanced],
) -> Rebalanced:
    """Write the draws that a strategy requests, with a note on what to do with their samples."""
    draws = list(requested)
    if (reshaping := rule_of(strategy, "reshape")) != "vanilla":
        notes.append(
            f"These are the draws of {strategy}. Add their samples to the first round, and "
            f"rebalance both with {reshaping}."
        )
    count, table = write(iter(draws), lambda _: _DRAWS, out, force)
    samples = sum(draw["n"] for draw in draws)
    queries = len({draw["query_id"] for draw in draws})
    return made(kind="draws", rows=count, samples=samples, queries=queries, table=table)


def _placing(images: ImageWriter | None, out: Path | None) -> Callable[[Mapping[str, Any]], Any]:
    """What becomes of an image in a row: a path in JSON, its bytes in Parquet."""
    if images is None or out is None:
        return dict
    return images.embedded if out.suffix == ".parquet" else images.path


def _result(
    strategy: str, layout: str, verdicts: Verdicts, k: int, out: Path | None, notes: list[str]
) -> Callable[..., Rebalanced]:
    """Creates a `Rebalanced`, given the attributes that draws and examples differ in."""
    return partial(
        Rebalanced,
        strategy=strategy,
        layout=layout,
        successes=int(verdicts.right.sum()),
        k=k,
        threshold=verdicts.threshold,
        path=str(out) if out else None,
        notes=notes,
    )


def _nothing_correct(verdicts: Verdicts) -> DataError:
    return DataError(
        "There is nothing to write: no sample is correct",
        f"a reward of {verdicts.threshold:g} or more is correct ({verdicts.why})",
        "Give the lowest reward of a correct response: --threshold",
    )


def _check(layout: str, out: Path | None, resamples: bool, force: bool) -> None:
    if layout not in SUFFIXES:
        raise RecipeError(f"unknown layout {layout!r}", f"known: {', '.join(SUFFIXES)}")
    if out is None:
        return
    fitting = (".jsonl", ".json", ".parquet") if resamples else SUFFIXES[layout]
    if out.suffix not in fitting:
        what = "draws" if resamples else f"the layout {layout}"
        raise RecipeError(
            f"{out} does not fit {what}: its name has to end in {' or '.join(fitting)}"
        )
    check(out, force)
    if layout == "trl" and not resamples:
        check_config(out, force)


# --- applying a strategy ---------------------------------------------------------------------


@dataclass
class _Work:
    """Applies a strategy to rollouts."""

    rollouts: Rollouts
    groups: Groups
    right: Array
    rule: Strategy
    k: int
    seed: int

    def used(self) -> Array:
        """[samples], how many examples are made of each sample; 0 of incorrect ones."""
        rows, _ = self._successes()
        numbers = pa.array(np.arange(len(self.groups.n)))

        def rng(g: Any) -> Random:
            query = self.rollouts.ids[int(self.groups.query[g])].as_py()
            return keyed_rng(self.seed, "rebalance", int(self.groups.step[g]), query)

        used = np.zeros(len(self.right), np.int64)
        used[rows] = uses(self.rule, self.groups.right, numbers, self.k, rng)
        return used

    def examples(
        self, used: Array, layout: TrainingRows, data: ImageIndex | None = None
    ) -> Iterator[dict[str, Any]]:
        """Training rows in the order of the samples; the copies of a sample follow one another.

        Args:
            used: from `used`.
            layout: creates the rows.
            data: has the images, if the rollouts have none.
        """
        seen = False
        for here, table in self.rollouts.batches(("prompt", "response", "images", "answer")):
            seen = seen or "response" in table.column_names
            if not seen:
                raise DataError(
                    f"{self.rollouts.source.files[0]} has no responses",
                    "training rows need them",
                    "Name their column: --map response=COLUMN",
                )
            mine = used[here]
            chosen = np.flatnonzero(mine)
            for row, times in zip(
                table.take(pa.array(chosen)).to_pylist(), mine[chosen].tolist(), strict=True
            ):
                if row["response"] is None:
                    raise DataError(
                        f"A correct sample of {row['query_id']} has no response",
                        f"in {', '.join(self.rollouts.source.files[:3])}",
                    )
                if data is not None and not row.get("images"):
                    found = data.images(row)
                    row["images"] = [{"bytes": image, "path": None} for image in found]
                yield from (layout.row(row, copy) for copy in range(times))

    def draws(self) -> Iterator[dict[str, Any]]:
        """The draws of the second round, sorted by step and query."""
        picked: dict[int, int] = {}  # group -> the sample whose steps its draws continue

        # Texts are read once, so a first pass finds out which ones are needed.
        def pick(g: int, row: int, source: str) -> Trajectory:
            picked[g] = row
            return Trajectory("", (), (), source)  # has no steps to cut, which gives plain draws

        queries = {int(self.groups.query[g]) for _, g in self._draws(pick)}
        prompts, texts = self._texts(queries, set(picked.values()))

        def load(g: int, row: int, source: str) -> Trajectory:
            text, ids, ends = texts[row]
            return Trajectory(text, ids, ends, source)

        for draw, g in self._draws(load):
            prefix = ""
            if draw.prefix_ids:
                text, _, ends = texts[picked[g]]
                prefix = text[: ends[len(draw.prefix_ids) - 1]]
            yield {
                "query_id": draw.query_id,
                "step": int(self.groups.step[g]),
                "n": draw.n,
                "prompt": prompts.get(int(self.groups.query[g])),
                "prefix_id": draw.prefix_id,
                "prefix": prefix,
                "source": draw.source,
            }

    def _draws(
        self, trajectory: Callable[[int, int, str], Trajectory]
    ) -> Iterator[tuple[Draw, int]]:
        """The strategy's draws, each with its group, step by step.

        Args:
            trajectory: loads a successful one, given its group, its sample and its source.
        """
        rows, starts = self._successes()
        groups, earlier = self.groups, _earlier_groups(self.groups)
        for step in np.unique(groups.step).tolist():
            here = np.flatnonzero(groups.step == step)
            ids = self.rollouts.ids.take(pa.array(groups.query[here])).to_pylist()
            group_of = dict(zip(ids, here.tolist(), strict=True))

            def trajectories(
                query_id: str, source: str, group_of: dict[str, int] = group_of
            ) -> list[Callable[[], Trajectory]]:
                g = group_of[query_id]
                mine = [g] if source == "own" else earlier(g) if source == "earlier" else []
                return [
                    partial(trajectory, g, row, source)
                    for one in mine
                    for row in rows[starts[one] : starts[one] + groups.right[one]].tolist()
                ]

            outcomes = map(Outcome, ids, groups.n[here].tolist(), groups.right[here].tolist())
            rng = partial(keyed_rng, self.seed, "resample", step)
            for draw in self.rule.resample(outcomes, trajectories, self.k, rng):
                yield draw, group_of[draw.query_id]

    def _successes(self) -> tuple[Array, Array]:
        """The correct samples, group by group, and where those of each group begin."""
        rows = np.flatnonzero(self.right)
        rows = rows[np.argsort(self.groups.group_of[rows], kind="stable")]
        return rows, np.cumsum(self.groups.right) - self.groups.right

    def _texts(
        self, queries: set[int], rows: set[int]
    ) -> tuple[dict[int, str], dict[int, tuple[str, tuple[int, ...], tuple[int, ...]]]]:
        """Read texts in one pass.

        Args:
            queries: positions in `Rollouts.ids`.
            rows: samples.

        Returns:
            Query -> prompt; and sample -> text, token ids and token ends. Where the source has no
            token ids, every character counts as a token, so that cuts fall on the same places.
        """
        prompts: dict[int, str] = {}
        texts = {}
        for here, table in self.rollouts.batches(_TEXTS):
            names = table.column_names
            query = self.rollouts.query[here]
            if "prompt" in names:
                for place in np.unique(query, return_index=True)[1].tolist():
                    if int(query[place]) in queries:
                        prompts.setdefault(int(query[place]), table["prompt"][place].as_py())
            for row in sorted(rows.intersection(range(here.start, here.stop))):
                if "response" not in names:
                    break
                text = table["response"][row - here.start].as_py() or ""
                ids, ends = tuple(map(ord, text)), tuple(range(1, len(text) + 1))
                if "token_ids" in names:
                    ids = tuple(table["token_ids"][row - here.start].as_py())
                    ends = tuple(table["token_ends"][row - here.start].as_py())
                texts[row] = (text, ids, ends)
        if rows and not texts:
            raise DataError(
                f"{self.rollouts.source.files[0]} has no responses",
                "gr continues the steps of correct ones",
                "Name their column (--map response=COLUMN), or use ar.",
            )
        return prompts, texts


_TEXTS = ("prompt", "response", "token_ids", "token_ends")
_DRAWS = pa.schema(
    [
        ("query_id", pa.string()),
        ("step", pa.int64()),
        ("n", pa.int64()),
        ("prompt", pa.string()),
        ("prefix_id", pa.string()),
        ("prefix", pa.string()),
        ("source", pa.string()),
    ]
)


def _earlier_groups(groups: Groups) -> Callable[[int], list[int]]:
    """A function that returns the groups of the same query in earlier steps, oldest first."""
    order = np.lexsort((groups.step, groups.query))
    before = np.full(len(order), -1, np.int64)
    same = groups.query[order[1:]] == groups.query[order[:-1]]
    before[order[1:][same]] = order[:-1][same]

    def groups_before(g: int) -> list[int]:
        found: list[int] = []
        while before[g] >= 0:
            g = int(before[g])
            found.append(g)
        return found[::-1]

    return groups_before
