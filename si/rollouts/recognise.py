"""Which tool wrote a file of rollouts, told from its columns.

The layouts are those that the tools' own sources write (looked up in 2025 and 2026):

- verl: `trainer.rollout_data_dir` and `validation_data_dir`, a file `<step>.jsonl` a step
- TRL: GRPO's `log_completions`, `completions_<step>.parquet`, a column for each reward function
- NeMo-RL: the logger's `train_data_step<step>.jsonl`, every value a list of one
- OpenRLHF: `batch_inference` after a reward model: input, output, reward
- lm-eval, lmms-eval: `--log_samples`, a row a document (and filter), a column a metric
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from si.errors import DataError

# What we want to know of a sample. `messages` is a whole conversation: its last message is the
# response, those before it are the prompt.
FIELDS = ("query_id", "prompt", "response", "messages", "reward", "step", "tokens", "images")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """How a tool writes rollouts.

    Attributes:
        name: the tool.
        needs: columns that together are this tool's.
        columns: field -> where it is: a column, or a path into one (`arguments.gen_args_0.arg_0`,
            `filtered_resps.0`).
        answer: a column with the reference answer. Where a query's id is made from its prompt it
            is part of it: questions about different images often have the same words.
        only: a column of which only the first value's rows count (lm-eval scores a response once
            for every filter).
    """

    name: str
    needs: frozenset[str] = frozenset()
    columns: Mapping[str, str] = field(default_factory=dict)
    answer: str | None = None
    only: str | None = None
    value: Any = None


_IMAGES = {"images": "images"}
LAYOUTS = (
    Layout(
        "verl",
        frozenset({"input", "output", "score", "step"}),
        {"prompt": "input", "response": "output", "reward": "score", "step": "step", **_IMAGES},
        answer="gts",
    ),
    Layout(
        "TRL",
        frozenset({"step", "prompt", "completion", "advantage"}),
        {"prompt": "prompt", "response": "completion", "step": "step", **_IMAGES},
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
        {
            "query_id": "doc_id",
            "prompt": "arguments.gen_args_0.arg_0",
            "response": "resps.0.0",
        },
        answer="target",
        only="filter",
    ),
    Layout(
        "lmms-eval",
        frozenset({"doc_id", "filtered_resps", "doc_hash"}),
        {"query_id": "doc_id", "prompt": "input", "response": "filtered_resps.0"},
        answer="target",
    ),
    Layout(
        "OpenRLHF",
        frozenset({"input", "output", "reward"}),
        {"prompt": "input", "response": "output", "reward": "reward"},
    ),
)

# Names that mean the same in files of no known tool; the first that is there is taken.
ALIASES: dict[str, tuple[str, ...]] = {
    "query_id": (
        *("query_id", "uid", "question_id", "problem_id", "prompt_id", "qid"),
        *("task_id", "doc_id", "example_id"),
    ),
    "prompt": ("prompt", "question", "problem", "query", "input", "instruction"),
    "response": (
        *("response", "completion", "output", "generation", "text", "prediction", "solution"),
        *("responses", "completions", "outputs", "generations", "samples"),
    ),
    "messages": ("messages", "conversation", "conversations"),
    "reward": (
        *("reward", "rewards", "correct", "is_correct", "score", "scores", "accuracy", "acc"),
        *("passed", "success", "exact_match"),
    ),
    "step": ("step", "global_step", "iteration", "training_step"),
    "tokens": (
        *("response_length", "completion_length", "num_tokens", "n_tokens", "tokens"),
        *("response_tokens", "token_ids", "output_ids"),
    ),
    "images": ("images", "image"),
}
ANSWERS = ("gts", "answer", "ground_truth", "reference", "target", "label", "solution")
_GOOD = re.compile(r"acc|correct|exact|match|pass|solve|verif", re.IGNORECASE)
# Columns of lm-eval's and lmms-eval's logs that are no metrics.
_BOOKKEEPING = frozenset(
    (
        *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
        *("doc_hash", "prompt_hash", "target_hash", "input", "step", "mode", "idx"),
        *("advantage", "advantages"),
    )
)


def recognise(
    names: Sequence[str], rows: Sequence[Row], mapping: Mapping[str, str], file: str
) -> tuple[Layout, list[str]]:
    """The layout of a file by its columns, and notes on what was decided.

    Args:
        names: the columns.
        rows: some rows, to tell metrics from other columns.
        mapping: field -> column or path, which goes before.
        file: how errors name it.

    Raises:
        DataError: if no reward or no query can be found, with the columns there are.
    """
    for wanted, path in mapping.items():
        if wanted not in FIELDS:
            raise DataError(f"There is no field {wanted!r} to map", "fields: " + ", ".join(FIELDS))
        if root(path, names) not in names:
            raise _not_understood(file, names, f"the column {path!r} that {wanted} is mapped to")
    known = next((one for one in LAYOUTS if one.needs and one.needs <= set(names)), None)
    layout = known or _generic(names)
    columns = {
        what: path for what, path in layout.columns.items() if path.split(".")[0] in names
    } | dict(mapping)
    notes = []
    missing = []
    if "reward" not in columns:
        metric = _metric(names, rows, file, sure=known is None)
        columns |= {"reward": metric} if metric else {}
        missing += [] if metric else ["a reward (reward), a number or right or wrong"]
    if not {"query_id", "prompt", "messages"} & columns.keys():
        missing.append("a query's id (query_id), or its prompt (prompt) to tell it by")
    if missing:
        raise _not_understood(file, names, "; ".join(missing))
    if layout.name == "verl" and "acc" in names and "reward" not in mapping:
        columns["reward"] = "acc"
        notes.append("The column acc says which responses are right; score is left aside.")
    if layout.name == "lmms-eval" and "resps" in names:
        columns["response"] = "resps.0.0" if "response" not in mapping else columns["response"]
    if layout.name == "lm-eval":
        columns |= _lm_eval(rows, mapping)
        if not isinstance(walk(rows[0], columns["response"].split(".")), str):
            del columns["response"]  # log-likelihoods of given answers: nothing was written
    value = None
    only = layout.only
    if only and only in names:
        value = next((row[only] for row in rows if row.get(only)), None)
        kinds = {str(row.get(only)) for row in rows}
        if len(kinds) > 1:
            notes.append(f"Rows of the filter {value!r} are read; the others score the same again.")
    answer = layout.answer if layout.answer in names else None
    if not known:
        answer = next((n for n in ANSWERS if n in names and n not in columns.values()), None)
    if "query_id" not in columns:
        also = f" and {answer}" if answer else ""
        notes.append(
            f"Queries are told apart by their {columns.get('prompt', columns.get('messages'))}"
            f"{also}: those that agree in it count as one."
        )
    only = only if value is not None else None
    return replace(layout, columns=columns, answer=answer, only=only, value=value), notes


def _lm_eval(rows: Sequence[Row], mapping: Mapping[str, str]) -> dict[str, str]:
    """Where lm-eval's versions keep the prompt: by name in its files, by place in its memory."""
    listed = isinstance(rows[0].get("arguments"), list)
    found = {"prompt": "arguments.0.0"} if listed else {}
    return {"response": "resps.0.0"} | found | dict(mapping)


def root(path: str, names: Sequence[str]) -> str:
    """The column that a path leads into; columns may have dots in their names."""
    return path if path in names else path.split(".")[0]


def walk(value: Any, path: Sequence[str]) -> Any:
    """Where a path leads to in a row; None if nowhere."""
    for key in path:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def _generic(names: Sequence[str]) -> Layout:
    """Columns by the names that most people give them, whatever their case."""
    lower = {name.lower(): name for name in reversed(names)}
    columns: dict[str, str] = {}
    for what, aliases in ALIASES.items():
        found = next((lower[a] for a in aliases if a in lower), None)
        if found is not None and found not in columns.values():
            columns[what] = found
    if "prompt" in columns or "response" in columns:
        columns.pop("messages", None)
    if not {"query_id", "prompt", "messages"} & columns.keys() and "id" in lower:
        columns["query_id"] = lower["id"]
    return Layout("columns by name", columns=columns)


def _metric(names: Sequence[str], rows: Sequence[Row], file: str, sure: bool) -> str | None:
    """The column that says how good a response is, where every tool or task names its own.

    Args:
        sure: take none that is not called as if it did.
    """
    declared: list[str] = next(
        (row["metrics"] for row in rows if isinstance(row.get("metrics"), list)), []
    )
    numbers: list[str] = []
    for name in declared or [n for n in names if n not in _BOOKKEEPING]:
        values = [row.get(name) for row in rows if row.get(name) is not None]
        if values and all(isinstance(v, int | float) for v in values):
            numbers.append(name)
        elif values and all(isinstance(v, dict) for v in values):
            inner = ("score", "correct", "acc", "accuracy", "hit")
            numbers += [
                f"{name}.{key}"
                for key in inner
                if all(isinstance((v or {}).get(key), int | float) for v in values)
            ][:1]
    exact: list[str] = [name for name in ("exact_match", "acc", "reward") if name in numbers]
    good = exact[:1] or [name for name in numbers if _GOOD.search(name)]
    chosen = numbers if len(numbers) == 1 and not sure else good
    if len(chosen) == 1:
        return chosen[0]
    if not (good if sure else numbers):
        return None
    raise DataError(
        f"{file} has several columns that could be the reward",
        ", ".join(good if sure else numbers),
        f"Say which: --map reward={(good or numbers)[0]}",
    )


def _not_understood(file: str, names: Sequence[str], missing: str) -> DataError:
    return DataError(
        f"{file} cannot be understood",
        f"columns found: {', '.join(names) or 'none'}\nmissing: {missing}",
        (
            "Say what is what: --map query_id=COLUMN,reward=COLUMN",
            "Known are: "
            + ", ".join(one.name for one in LAYOUTS)
            + ", si-ctl, and columns by names such as query_id, prompt, response, reward, step",
        ),
    )
