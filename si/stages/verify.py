"""Verify: decide for every rollout whether its final answer is the reference's.

`si.answers` judges; this stage reads rollouts and queries, and writes the verdicts.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from si.answers import Case, Judge, MathPool, Policy, Tolerance, Verdict
from si.answers.custom import judge_custom
from si.answers.unread import unread
from si.config.recipe import Recipe, Verify
from si.datasets.dataset import Dataset
from si.errors import DataError
from si.plugins import is_custom, load
from si.records import KEY, VERDICTS, Query
from si.stages import stage
from si.stages.job import Job, ShardFunction
from si.stages.stage import code_of
from si.store.commit import Output

_COLUMNS = ("correct", "extracted", "method", "kind", "where", "rule", "reason")
_LOG = logging.getLogger(__name__)


class Settings(stage.Settings):
    """What verifying reads of the recipe."""

    verify: Verify = Verify()

    @classmethod
    def of(cls, recipe: Recipe) -> "Settings":
        return cls(verify=recipe.verify, code=code_of(recipe.verify.judge))

    def identity(self) -> dict[str, Any]:
        values = super().identity()
        if not is_custom(self.verify.judge):
            del values["verify"]["judge"]
        return values


class Params(stage.Params):
    """Nothing but the generation."""


class Facts(stage.Facts):
    """How many samples were verified, and how many of them are correct."""

    samples: int = 0
    correct: int = 0

    def describe(self) -> str:
        return f"{100 * self.correct / max(1, self.samples):.1f} % correct"


def policy_of(settings: Verify) -> Policy:
    """A recipe's settings as the judge takes them."""
    given = settings.tolerance
    return Policy(
        profile=settings.profile,
        tolerance=Tolerance(given.absolute, given.relative, given.decimals),
        units=settings.units,
        convert=settings.convert,
        off=frozenset(settings.off),
    )


def judging(settings: Verify) -> Callable[[Sequence[Case]], list[Verdict]]:
    """What judges: the rules with their pool of processes, or the recipe's custom verifier."""
    if is_custom(settings.judge):
        own = load("judge", settings.judge, {})
        return lambda cases: judge_custom(own, cases)
    return Judge(policy_of(settings), MathPool(timeout=settings.math_timeout)).judge_all


def case_of(query: Query, text: str, finish_reason: str) -> Case:
    """A query's response as the judge takes it."""
    return Case(
        text,
        (query.answer, *(query.accepted or ())),
        query.answer_kind,
        tuple(query.choices or ()),
        finish_reason,
        query.query_id,
        query.question,
    )


def verify(job: Job[Settings, Params]) -> ShardFunction:
    """Stage function: shard i of the rollouts to shard i of the verdicts.

    Raises:
        DataError: if a rollout's query is not in the data set, or its reference cannot be
            understood.
    """
    data = Dataset(job.input("data"))
    queries = {query.query_id: query for query in data.queries(data.table())}
    judge = judging(job.settings.verify)

    def shard(number: int) -> Output:
        columns = [*KEY, "text", "finish_reason"]
        rollouts = job.input("rollouts").table("rollouts.parquet", number, columns)
        ids = rollouts["query_id"].to_pylist()
        strange = set(ids) - queries.keys()
        if strange:
            raise DataError(
                f"{len(strange)} queries of {job.input('rollouts').address} are not in the data",
                f"the first is {min(strange)}, shard {number}; data {data.artifact.address}",
                "Verify rollouts with the data set that they were sampled from.",
            )
        texts, reasons = rollouts["text"].to_pylist(), rollouts["finish_reason"].to_pylist()
        answered = zip(ids, texts, reasons, strict=True)
        cases = [case_of(queries[query], text, reason) for query, text, reason in answered]
        verdicts = judge(cases)
        made = rollouts.select(KEY)
        for name in _COLUMNS:
            values = [getattr(verdict, name) for verdict in verdicts]
            made = made.append_column(name, pa.array(values, VERDICTS.field(name).type))
        return Output(
            files={"verdicts.parquet": made.cast(VERDICTS)},
            rows=len(made),
            facts=Facts(samples=len(made), correct=sum(v.correct for v in verdicts)).identity(),
            provenance=_provenance(cases, verdicts),
        )

    return shard


def _provenance(cases: Sequence[Case], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """How the verdicts came about; a shard whose responses cannot be read is logged."""
    counted: dict[str, Any] = {
        "methods": dict(Counter(verdict.method for verdict in verdicts)),
        "found": dict(Counter(verdict.where for verdict in verdicts)),
        "rules": dict(Counter(verdict.rule for verdict in verdicts)),
        "reasons": dict(Counter(verdict.reason for verdict in verdicts if verdict.reason)),
    }
    many = unread(cases, verdicts)
    if many:
        counted["unread"] = many.to_json()
        _LOG.warning("\n".join(many.lines()))
    return counted
