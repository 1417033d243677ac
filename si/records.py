"""What flows between the stages: records, and the Parquet schemas of the tables.

The words are those of docs/glossary.md. Within its shard, every table is sorted by `query_id`, then
by (round, prefix_id, sample). Where a table has a record class, the schema is derived from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, get_type_hints

import pyarrow as pa

from si.errors import DataError

HEAD = ("L1",)
TAIL = ("L5", "U")
LEVELS = ("L1", "L2", "L3", "L4", "L5", "U")
SPLITS = ("train", "dev", "test")
# The round of sampled evaluation answers, so that their seeds are not those of the samples that
# measure levels (round 0). Greedy answers, which need no seeds, have round 0, too.
EVALUATION = 3


class Column(NamedTuple):
    """How a field of a record is stored: its Arrow type, and its meaning as documented.

    Both are written into every Parquet file: another wording changes the content digests of all
    artefacts with this table.
    """

    type: pa.DataType
    meaning: str


@dataclass(frozen=True, slots=True)
class Query:
    """A question about images, with its reference answer.

    `difficulty` is the data set's own grade, never a level (`level`). `rationale` is used only by
    guided resampling with `gr.reference: true`. `images` are stored in a table of their own;
    `choices`, the options' texts, and `accepted`, further accepted answers, in columns that only
    data sets with them have.
    """

    query_id: Annotated[
        str,
        Column(pa.string(), "first 16 hex digits of SHA-256 over pixels, question and answer"),
    ]
    family: Annotated[
        str, Column(pa.string(), "the family of queries, which declares the step separator")
    ]
    question: Annotated[str, Column(pa.string(), "the question as asked")]
    answer: Annotated[str, Column(pa.string(), "the reference answer")]
    answer_kind: Annotated[str, Column(pa.string(), "number, choice or text")] = "text"
    difficulty: Annotated[
        int, Column(pa.int8(), "the data set's own grade; 0 where it has none")
    ] = 0
    rationale: Annotated[
        str | None, Column(pa.string(), "the data set's worked solution, or null")
    ] = None
    choices: Sequence[str] = ()
    accepted: Sequence[str] = ()
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Draw:
    """A request for `n` samples of one query that continue a prefix (empty: plain samples)."""

    query_id: Annotated[str, Column(pa.string(), "the query")]
    n: Annotated[int, Column(pa.int32(), "samples wanted")]
    prefix_id: Annotated[str, Column(pa.string(), "the guided prefix; empty for plain samples")] = (
        ""
    )
    prefix_ids: Annotated[
        tuple[int, ...], Column(pa.list_(pa.int32()), "the prefix's stored token ids")
    ] = ()
    source: Annotated[
        str,
        Column(pa.string(), "where the prefix came from: own, earlier, reference or plain"),
    ] = "plain"


class Outcome(NamedTuple):
    """How many samples a query has (`n`), and how many of them are correct (`k`)."""

    query_id: str
    n: int
    k: int


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A successful response, with what is needed to cut it between two steps.

    Attributes:
        token_ids: as they were sampled.
        token_ends: for each token, how many characters of `text` it and those before it cover.
        source: own (the same round), earlier (an earlier iteration) or reference (the data set's
            rationale).
        separator: the text that ends a step.
    """

    text: str
    token_ids: tuple[int, ...]
    token_ends: tuple[int, ...]
    source: str = "own"
    separator: str = "\n"


def level(n: int, k: int) -> str:
    """A query's level, given `k` correct of `n` samples under policy 0; exact, in integers.

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
    """A schema of (name, type, meaning); a test compares the meanings with docs/artifacts.md."""
    return pa.schema(
        [pa.field(name, kind, metadata={"meaning": text}) for name, kind, text in columns]
    )


def _schema_of(record: type) -> pa.Schema:
    """The schema of the fields that a record class annotates with a `Column`."""
    hints = get_type_hints(record, include_extras=True)
    columns = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return _schema(*((name, *found[0]) for name, found in columns.items() if found))


_WHICH = (
    ("query_id", pa.string(), "the query; first 16 hex digits of the content's SHA-256"),
    ("round", pa.int8(), "1 = first round, 2 = resampling round, 0 = levels and evaluation"),
    ("prefix_id", pa.string(), "the guided prefix; empty for plain samples"),
    ("sample", pa.int32(), "sample number within (query, round, prefix), from 0"),
)

KEY = [name for name, _, _ in _WHICH]

QUERIES = _schema_of(Query)
# Each only where a part has any: other parts stay the artefacts that they are.
CHOICES = pa.field("choices", pa.list_(pa.string()), metadata={"meaning": "the options' texts"})
ACCEPTED = pa.field(
    "accepted", pa.list_(pa.string()), metadata={"meaning": "accepted answers besides `answer`"}
)
OPTIONAL = (CHOICES, ACCEPTED)
IMAGES = _schema(
    ("query_id", pa.string(), "the query"),
    ("images", pa.list_(pa.binary()), "its images, encoded (PNG or JPEG), in order"),
)
DRAWS = _schema_of(Draw)
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
    ("kind", pa.string(), "the kind of answer by which it was compared"),
    ("where", pa.string(), "the rule that found the answer, or nothing"),
    ("rule", pa.string(), "the rule that decided, or none"),
    ("reason", pa.string(), "why it is not correct, or null"),
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
SAMPLED_SCORES = _schema(
    ("query_id", pa.string(), "the query"),
    ("split", pa.string(), "dev or test"),
    ("family", pa.string(), "the query's family"),
    ("difficulty", pa.int8(), "the data set's own grade"),
    ("level", pa.string(), "the query's level under policy 0"),
    ("samples", pa.int32(), "answers to the query"),
    ("correct", pa.int32(), "correct ones among them"),
    ("majority", pa.float64(), "1 if most answers agree on the reference, 0 if not; see maj@n"),
    ("tokens", pa.int64(), "length of all answers together"),
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
    """Samples and correct samples of each query.

    Args:
        verdicts: a table of `VERDICTS`.

    Returns:
        `query_id`, `n` and `k` (both int64), sorted by `query_id`.
    """
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
    """The correct rollouts of a shard, given the verdicts of the same shard.

    Raises:
        DataError: if a verdict and the rollout in the same row are about different samples.
    """
    if not rollouts.select(KEY).equals(verdicts.select(KEY)):
        raise DataError(
            "Rollouts and verdicts are about different samples",
            f"{len(rollouts)} rollouts, {len(verdicts)} verdicts",
        )
    return rollouts.filter(verdicts["correct"])


@dataclass(frozen=True, slots=True)
class Request:
    """What a sampler gets: one query, one prefix, and a seed for each sample to draw."""

    question: str
    images: tuple[bytes, ...]
    seeds: tuple[int, ...]
    prefix_ids: tuple[int, ...] = ()
    max_new_tokens: int = 64


def render_prompt(template: str, question: str) -> str:
    """The user's turn: `question` put into the recipe's `sampling.prompt_template`."""
    return template.replace("{question}", question)


@dataclass(frozen=True, slots=True)
class Sampled:
    """One continuation.

    Attributes:
        token_ids: of the continuation alone, the end of the turn included.
        finish_reason: stop, length or dropped, as in `ROLLOUTS`.
        logprob: sum of the tokens' log-probabilities at temperature 1.
    """

    token_ids: tuple[int, ...]
    finish_reason: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One example for the trainer: the prompt, and the response's token ids.

    Attributes:
        question: the user's turn, rendered with the recipe's prompt template.
        prefix_len: how many leading tokens of the response are a guided prefix.
    """

    question: str
    images: tuple[bytes, ...]
    token_ids: tuple[int, ...]
    prefix_len: int = 0
