"""Anybody's rollouts to training rows, or to the draws that a strategy asks for.

The rules are those of `si.strategies`, keyed as in the loop, so that the same rollouts give the
same rows whatever the tool that reads them. Choices are made on numbers; texts pass through a
batch at a time, straight into the file (`si.rollouts.layouts`).
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
from si.rollouts.layouts import SUFFIXES, TrainingRows, write
from si.rollouts.table import Groups, Rollouts, group, judge
from si.strategies import Strategy, by_name, rule_of, uses


@dataclass(frozen=True)
class Rebalanced:
    """What was made of some rollouts.

    Attributes:
        kind: examples or draws.
        rows: how many rows the file or table has.
        samples: how many samples the draws ask for; 0 for examples.
        successes, queries: right samples there are, and how many queries have a row.
        path: where the rows lie; None if they are in `table`.
        notes: what one should know of how it was made.
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
        """All but the table, JSON-serialisable."""
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
) -> Rebalanced:
    """Training rows of the examples that a strategy makes; of one that resamples, its draws.

    Args:
        strategy: vanilla, tc, rp, ar, gr, or a composition such as gr+tc.
        layout: trl, sharegpt, verl or jsonl; draws are plain rows in each.
        out: the file to write; None for a table.
        seed: key of the random choices.
        threshold: lowest reward of a success; see `si.rollouts.table.judge`.
        k: K; by default the most common number of samples of a query in a step.
        force: replace a file that is there.
        settings: of the strategies, as `si.strategies.by_name` takes them.

    Raises:
        RecipeError: for an unknown strategy or layout, or a file name that does not fit it.
        DataError: if the file is there already, or responses are not.
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
    work = _Work(rollouts, groups, verdicts.right, rule, size, seed)
    queries: set[str] = set()
    samples = 0
    if resamples:
        made = list(work.draws())
        queries, samples = {row["query_id"] for row in made}, sum(row["n"] for row in made)
        rows, schema = iter(made), lambda _: _DRAWS
        if (reshaping := rule_of(strategy, "reshape")) != "vanilla":
            notes.append(
                f"These are {strategy}'s draws. Add what they bring to the first round, and "
                f"rebalance both with {reshaping}."
            )
    else:
        used = work.used()
        if not used.any():
            raise DataError(
                "There is nothing to write: no sample is right",
                f"{verdicts.threshold:g} or more is right ({verdicts.why})",
                "Say from which reward on a response is right: --threshold",
            )
        writer = TrainingRows(layout, out, rollouts.source.layout.name, notes)
        rows, schema = work.examples(used, writer), writer.schema
        solved = len(np.unique(rollouts.query[used > 0]))
    count, table = write(rows, schema, out, force)
    return Rebalanced(
        strategy,
        layout,
        "draws" if resamples else "examples",
        count,
        samples,
        int(verdicts.right.sum()),
        len(queries) if resamples else solved,
        size,
        verdicts.threshold,
        str(out) if out else None,
        notes,
        table,
    )


def _check(layout: str, out: Path | None, resamples: bool, force: bool) -> None:
    if layout not in SUFFIXES:
        raise RecipeError(f"unknown layout {layout!r}, known: {', '.join(SUFFIXES)}")
    if out is None:
        return
    fitting = (".jsonl", ".json", ".parquet") if resamples else SUFFIXES[layout]
    if out.suffix not in fitting:
        what = "draws" if resamples else f"the layout {layout}"
        raise RecipeError(
            f"{out} does not fit {what}: its name has to end in {' or '.join(fitting)}"
        )
    check(out, force)


# --- what the strategy makes ---------------------------------------------------------------


@dataclass
class _Work:
    """One strategy at work on some rollouts."""

    rollouts: Rollouts
    groups: Groups
    right: Array
    rule: Strategy
    k: int
    seed: int

    def used(self) -> Array:
        """How many examples are made of each sample; 0 of wrong ones."""
        rows, _ = self._successes()
        numbers = pa.array(np.arange(len(self.groups.n)))

        def rng(g: Any) -> Random:
            query = self.rollouts.ids[int(self.groups.query[g])].as_py()
            return keyed_rng(self.seed, "rebalance", int(self.groups.step[g]), query)

        used = np.zeros(len(self.right), np.int64)
        used[rows] = uses(self.rule, self.groups.right, numbers, self.k, rng)
        return used

    def examples(self, used: Array, layout: TrainingRows) -> Iterator[dict[str, Any]]:
        """Rows in the order of the samples, copies of one side by side."""
        seen = False
        for here, table in self.rollouts.batches(("prompt", "response", "images")):
            seen = seen or "response" in table.column_names
            if not seen:
                raise DataError(
                    f"{self.rollouts.source.files[0]} has no responses",
                    "training rows need them",
                    "Say where they are: --map response=COLUMN",
                )
            mine = used[here]
            chosen = np.flatnonzero(mine)
            for row, times in zip(
                table.take(pa.array(chosen)).to_pylist(), mine[chosen].tolist(), strict=True
            ):
                if row["response"] is None:
                    raise DataError(f"A right sample of {row['query_id']} has no response")
                yield from (layout.row(row, copy) for copy in range(times))

    def draws(self) -> Iterator[dict[str, Any]]:
        """The second round's draws, by step and query."""
        picked: dict[int, int] = {}  # group -> the sample whose steps its draws begin with

        def note(g: int, row: int, source: str) -> Trajectory:
            picked[g] = row
            return Trajectory("", (), (), source)  # has no steps to cut, so plain draws follow

        asking = {int(self.groups.query[g]) for _, g in self._asked(note)}
        prompts, texts = self._texts(asking, set(picked.values()))

        def tell(g: int, row: int, source: str) -> Trajectory:
            text, ids, ends = texts[row]
            return Trajectory(text, ids, ends, source)

        for draw, g in self._asked(tell):
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

    def _asked(
        self, trajectory: Callable[[int, int, str], Trajectory]
    ) -> Iterator[tuple[Draw, int]]:
        """The strategy's draws with the groups that they are for, step by step."""
        rows, starts = self._successes()
        groups, earlier = self.groups, _earlier(self.groups)
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
        """Right samples, group by group in their order, and where each group's begin."""
        rows = np.flatnonzero(self.right)
        rows = rows[np.argsort(self.groups.of[rows], kind="stable")]
        return rows, np.cumsum(self.groups.right) - self.groups.right

    def _texts(
        self, queries: set[int], rows: set[int]
    ) -> tuple[dict[int, str], dict[int, tuple[str, tuple[int, ...], tuple[int, ...]]]]:
        """Prompts of these queries; text, token ids and token ends of these samples. Where the
        file has no ids, each character stands for a token, so that a cut is the same."""
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
                "gr begins with the steps of right ones",
                "Say where they are (--map response=COLUMN), or take ar.",
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


def _earlier(groups: Groups) -> Callable[[int], list[int]]:
    """Looks up the same query's groups in earlier steps, oldest first."""
    order = np.lexsort((groups.step, groups.query))
    before = np.full(len(order), -1, np.int64)
    same = groups.query[order[1:]] == groups.query[order[:-1]]
    before[order[1:][same]] = order[:-1][same]

    def look(g: int) -> list[int]:
        found: list[int] = []
        while before[g] >= 0:
            g = int(before[g])
            found.append(g)
        return found[::-1]

    return look
