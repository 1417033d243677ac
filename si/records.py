"""The nouns: what flows between the stages, as dataclasses and as Parquet schemas.

Words are those of docs/glossary.md. Every table is sorted by `query_id`, then
by (round, prefix_id, sample), within its shard.
"""

from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from si.errors import DataError

HEAD = ("L1",)
TAIL = ("L5", "U")
LEVELS = ("L1", "L2", "L3", "L4", "L5", "U")
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Query:
    """A question about images, with its reference answer.

    `difficulty` is the data set's own grade (0 where it has none), never a level.
    `rationale` is the data set's worked solution; it is used only by guided
    resampling with `gr.reference: true`.
    """

    query_id: str
    family: str
    question: str
    answer: str
    answer_kind: str = "text"
    difficulty: int = 0
    rationale: str | None = None
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Draw:
    """A request for `n` samples of one query, from a prefix (empty for plain samples).

    `source` tells where the prefix came from: own, earlier, reference or plain.
    """

    query_id: str
    n: int
    prefix_id: str = ""
    prefix_ids: tuple[int, ...] = ()
    source: str = "plain"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One response. `token_ids` is prefix + continuation, ids as they were sampled;
    `token_ends[i]` is the number of characters of `text` that the first i+1 tokens cover."""

    query_id: str
    round: int
    prefix_id: str
    sample: int
    seed: int
    token_ids: tuple[int, ...]
    token_ends: tuple[int, ...]
    prefix_len: int
    text: str
    finish_reason: str
    logprob: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier says of one rollout: extracted answer, right or wrong, how it knows."""

    query_id: str
    round: int
    prefix_id: str
    sample: int
    correct: bool
    extracted: str | None
    method: str


class Outcome(NamedTuple):
    """A query's number of samples `n` and of correct ones `k`."""

    query_id: str
    n: int
    k: int


class Success(NamedTuple):
    """A correct rollout within its query; sorted, the order in which reshaping sees them."""

    round: int
    prefix_id: str
    sample: int


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A successful response with what a cut needs: its text, tokens and step separator."""

    text: str
    token_ids: tuple[int, ...]
    token_ends: tuple[int, ...]
    source: str = "own"
    separator: str = "\n"


def level(n: int, k: int) -> str:
    """A query's level from `k` correct of `n` samples under policy 0, decided on integers.

    L1 [0.8, 1], L2 [0.6, 0.8), L3 [0.4, 0.6), L4 [0.2, 0.4), L5 (0, 0.2), U = 0.

    Raises:
        ValueError: if not 0 <= k <= n or n = 0.
    """
    if n <= 0 or not 0 <= k <= n:
        raise ValueError(f"a level needs 0 <= k <= n and n > 0, got k={k}, n={n}")
    if k == 0:
        return "U"
    return f"L{5 - min(4, 5 * k // n)}"


def _schema(*columns: tuple[str, pa.DataType, str]) -> pa.Schema:
    """A schema whose fields carry their meaning, so that docs and files cannot disagree."""
    return pa.schema(
        [pa.field(name, kind, metadata={"meaning": text}) for name, kind, text in columns]
    )


_WHICH = (
    ("query_id", pa.string(), "the query; first 16 hex digits of the content's SHA-256"),
    ("round", pa.int8(), "1 = first round, 2 = resampling round, 0 = levels and evaluation"),
    ("prefix_id", pa.string(), "the guided prefix; empty for plain samples"),
    ("sample", pa.int32(), "sample number within (query, round, prefix), from 0"),
)

KEY = [name for name, _, _ in _WHICH]

QUERIES = _schema(
    ("query_id", pa.string(), "first 16 hex digits of SHA-256 over pixels, question and answer"),
    ("family", pa.string(), "the family of queries, which declares the step separator"),
    ("question", pa.string(), "the question as asked"),
    ("answer", pa.string(), "the reference answer"),
    ("answer_kind", pa.string(), "number, choice or text"),
    ("difficulty", pa.int8(), "the data set's own grade; 0 where it has none"),
    ("rationale", pa.string(), "the data set's worked solution, or null"),
)
IMAGES = _schema(
    ("query_id", pa.string(), "the query"),
    ("images", pa.list_(pa.binary()), "its images, encoded (PNG or JPEG), in order"),
)
DRAWS = _schema(
    ("query_id", pa.string(), "the query"),
    ("n", pa.int32(), "samples wanted"),
    ("prefix_id", pa.string(), "the guided prefix; empty for plain samples"),
    ("prefix_ids", pa.list_(pa.int32()), "the prefix's stored token ids"),
    ("source", pa.string(), "where the prefix came from: own, earlier, reference or plain"),
)
ROLLOUTS = _schema(
    *_WHICH,
    ("seed", pa.int64(), "hash of (recipe seed, iteration, round, query, prefix, sample)"),
    ("token_ids", pa.list_(pa.int32()), "response token ids, prefix + continuation"),
    ("token_ends", pa.list_(pa.int32()), "characters of text covered up to each token"),
    ("prefix_len", pa.int32(), "how many leading tokens are the guided prefix"),
    ("text", pa.string(), "the response as text, special tokens left out"),
    ("finish_reason", pa.string(), "stop (end of turn), length (token limit) or dropped"),
    ("logprob", pa.float32(), "sum of the continuation's log-probabilities at temperature 1"),
)
VERDICTS = _schema(
    *_WHICH,
    ("correct", pa.bool_(), "the final answer equals the reference"),
    ("extracted", pa.string(), "the final answer as found in the response, or null"),
    ("method", pa.string(), "how it was decided: exact, number, choice, math, timeout or none"),
)
LEVEL_TABLE = _schema(
    ("query_id", pa.string(), "the query"),
    ("n", pa.int32(), "samples of policy 0"),
    ("k", pa.int32(), "correct ones among them"),
    ("level", pa.string(), "L1 to L5 or U"),
)
EXAMPLES = _schema(
    *_WHICH,
    ("copy", pa.int32(), "0 for the first use of this rollout, 1, 2 ... for repetitions"),
    ("token_ids", pa.list_(pa.int32()), "response token ids to train on"),
    ("prefix_len", pa.int32(), "how many leading tokens are the guided prefix"),
    ("text", pa.string(), "the response as text"),
)
SCORES = _schema(
    ("query_id", pa.string(), "the query"),
    ("split", pa.string(), "dev or test"),
    ("family", pa.string(), "the query's family"),
    ("difficulty", pa.int8(), "the data set's own grade"),
    ("level", pa.string(), "the query's level under policy 0"),
    ("correct", pa.bool_(), "the greedy response is right"),
    ("tokens", pa.int32(), "length of the greedy response"),
)

SCHEMAS: dict[str, pa.Schema] = {
    "queries": QUERIES,
    "images": IMAGES,
    "draws": DRAWS,
    "rollouts": ROLLOUTS,
    "verdicts": VERDICTS,
    "levels": LEVEL_TABLE,
    "examples": EXAMPLES,
    "scores": SCORES,
}


def outcomes(verdicts: pa.Table) -> pa.Table:
    """How often each query was sampled and right: query_id, n, k, sorted by query_id."""
    counted = verdicts.group_by("query_id").aggregate([("correct", "count"), ("correct", "sum")])
    table = pa.table(
        {
            "query_id": counted["query_id"],
            "n": counted["correct_count"].cast(pa.int64()),
            "k": counted["correct_sum"].cast(pa.int64()),
        }
    )
    return table.sort_by("query_id")


def successes(rollouts: pa.Table, verdicts: pa.Table) -> pa.Table:
    """The rollouts of one shard that are right, by the verdicts of the same shard.

    Raises:
        DataError: if the verdicts are not about these rollouts, row for row.
    """
    if not rollouts.select(KEY).equals(verdicts.select(KEY)):
        raise DataError(
            "Rollouts and verdicts are not about the same samples",
            f"{len(rollouts)} rollouts, {len(verdicts)} verdicts",
        )
    return rollouts.filter(verdicts["correct"])


@dataclass(frozen=True, slots=True)
class Request:
    """What a sampler is asked: one query, one prefix, one seed a sample."""

    question: str
    images: tuple[bytes, ...]
    seeds: tuple[int, ...]
    prefix_ids: tuple[int, ...] = ()
    max_new_tokens: int = 64


def asked(template: str, question: str) -> str:
    """The user's turn: the recipe's `sampling.prompt_template` with a query's question in it."""
    return template.replace("{question}", question)


@dataclass(frozen=True, slots=True)
class Sampled:
    """One continuation: its ids (end-of-turn included), why it ended, its log-probability."""

    token_ids: tuple[int, ...]
    finish_reason: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One example as the trainer wants it: what was asked, and the response's ids."""

    question: str
    images: tuple[bytes, ...]
    token_ids: tuple[int, ...]
    prefix_len: int = 0
