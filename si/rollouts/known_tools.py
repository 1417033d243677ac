"""How known tools write rollouts, and the names that columns have in the files of other tools.

The layouts are those that the tools' own sources write (looked up in 2025 and 2026):

- verl: `trainer.rollout_data_dir` and `validation_data_dir`, a file `<step>.jsonl` per step
- TRL: GRPO's `log_completions`, `completions_<step>.parquet`, a column for each reward function
- NeMo-RL: the logger's `train_data_step<step>.jsonl`, where every value is a list of one
- OpenRLHF: `batch_inference` after a reward model: input, output, reward
- lm-eval, lmms-eval: `--log_samples`, a row per document (and filter), a column per metric
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# The fields of a sample. `messages` is a whole conversation: its last message is the response, and
# those before it are the prompt.
FIELDS = ("query_id", "prompt", "response", "messages", "reward", "step", "tokens", "images")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """A field that some versions of a tool write elsewhere.

    Attributes:
        field: one of FIELDS.
        path: the column, or the path into one, that holds it in these versions.
        applies: tells from the columns and a row whether a file is of such a version.
        note: for the user, where the variant applies; empty for none.
    """

    field: str
    path: str
    applies: Callable[[Sequence[str], Row], bool]
    note: str = ""


@dataclass(frozen=True)
class Layout:
    """How a tool writes rollouts.

    Attributes:
        name: the tool.
        needs: columns that together identify a file of this tool.
        columns: field -> a column, or a path into one (`arguments.gen_args_0.arg_0`,
            `filtered_resps.0`).
        variants: where other versions of the tool write a field.
        only_texts: whether the response may be something else than text, and is ignored then
            (lm-eval logs log-likelihoods of given answers).
        answer: a column with the reference answer. Where ids are derived from prompts, it is part
            of them: questions about different images often have the same words.
        only: a column of which only rows with one value count, `value` (lm-eval scores a response
            once for each filter).
    """

    name: str
    needs: frozenset[str] = frozenset()
    columns: Mapping[str, str] = field(default_factory=dict)
    variants: tuple[Variant, ...] = ()
    only_texts: bool = False
    answer: str | None = None
    only: str | None = None
    value: Any = None


def _has(column: str) -> Callable[[Sequence[str], Row], bool]:
    return lambda names, _: column in names


LAYOUTS = (
    Layout(
        "verl",
        frozenset({"input", "output", "score", "step"}),
        {
            "prompt": "input",
            "response": "output",
            "reward": "score",
            "step": "step",
            "images": "images",
        },
        variants=(
            Variant(
                "reward",
                "acc",
                _has("acc"),
                "The column acc says which responses are correct; score is ignored.",
            ),
        ),
        answer="gts",
    ),
    Layout(
        "TRL",
        frozenset({"step", "prompt", "completion", "advantage"}),
        {"prompt": "prompt", "response": "completion", "step": "step", "images": "images"},
        answer="solution",
    ),
    Layout(
        "NeMo-RL",
        frozenset({"content", "rewards", "idx"}),
        {"messages": "content", "reward": "rewards"},
    ),
    Layout(
        "lm-eval",
        frozenset({"doc_id", "filtered_resps", "arguments"}),
        # Its files name the arguments of a request; its results in memory list them.
        {
            "query_id": "doc_id",
            "prompt": "arguments.gen_args_0.arg_0",
            "response": "resps.0.0",
        },
        variants=(
            Variant(
                "prompt",
                "arguments.0.0",
                lambda _, row: isinstance(row.get("arguments"), list),
            ),
        ),
        only_texts=True,
        answer="target",
        only="filter",
    ),
    Layout(
        "lmms-eval",
        frozenset({"doc_id", "filtered_resps", "doc_hash"}),
        {"query_id": "doc_id", "prompt": "input", "response": "filtered_resps.0"},
        variants=(Variant("response", "resps.0.0", _has("resps")),),
        answer="target",
    ),
    Layout(
        "OpenRLHF",
        frozenset({"input", "output", "reward"}),
        {"prompt": "input", "response": "output", "reward": "reward"},
    ),
)

# Field -> names of columns in files of unknown tools, the likeliest first.
ALIASES: dict[str, tuple[str, ...]] = {
    field: tuple(names.split())
    for field, names in {
        "query_id": "query_id uid question_id problem_id prompt_id qid task_id doc_id example_id",
        "prompt": "prompt question problem query input instruction",
        "response": "response completion output generation text prediction predict solution "
        "responses completions outputs generations samples",
        "messages": "messages conversation conversations",
        "reward": "reward rewards correct is_correct score scores accuracy acc "
        "passed success exact_match",
        "step": "step global_step iteration training_step",
        "tokens": "response_length completion_length num_tokens n_tokens tokens "
        "response_tokens token_ids output_ids",
        "images": "images image",
    }.items()
}
# Names of columns that may hold ids of queries; whether they do, their values have to show.
IDS = ("id", "idx", "index", "sample_id", "pid", "item_id", "data_id", "example_index")
# Names of columns with the reference answer.
ANSWERS = (
    *("gts", "answer", "ground_truth", "reference", "target", "label", "solution"),
    *("references", "accepted_answers", "reference_answers"),
)
