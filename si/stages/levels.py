"""Levels: each query's level, from the verdicts on policy 0's samples."""

import pyarrow as pa

from si.records import LEVEL_TABLE, level, outcomes
from si.stages import stage
from si.stages.job import Job, ShardFunction
from si.store.commit import Output


class Settings(stage.Settings):
    """Levels depend on verdicts alone."""


class Params(stage.Params):
    """Nothing but the generation."""


class Facts(stage.Facts):
    """How many queries have a level."""

    queries: int = 0


def levels(job: Job[Settings, Params]) -> ShardFunction:
    """Stage function: verdicts to levels.parquet, sorted by query.

    Inputs: verdicts-1 to verdicts-n; a query's samples are counted over all of them.
    """

    def shard(_: int) -> Output:
        columns = ["query_id", "correct"]
        verdicts = [made.tables("verdicts.parquet", columns) for made in job.inputs("verdicts")]
        counted = outcomes(pa.concat_tables(verdicts))
        names = map(level, counted["n"].to_pylist(), counted["k"].to_pylist())
        table = counted.append_column("level", pa.array(names, pa.string())).cast(LEVEL_TABLE)
        return Output({"levels.parquet": table}, len(table), Facts(queries=len(table)).identity())

    return shard
