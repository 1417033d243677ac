"""The same few rollouts as each tool's own logs write them: names of files, columns, nesting.

Two steps, three queries, four samples each; of query q, `RIGHT[step][q]` are right, the first
ones. lm-eval and lmms-eval score one response a document, so they write a file a repetition.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

RIGHT = {1: (4, 2, 0), 2: (4, 3, 1)}
K = 4
QUESTIONS = ("What is 2 + 2?", "What is 17 * 23?", "How many primes are below 100?")
ANSWERS = ("4", "391", "25")


class Sample(NamedTuple):
    step: int
    query: int
    number: int
    right: bool

    @property
    def question(self) -> str:
        return QUESTIONS[self.query]

    @property
    def response(self) -> str:
        said = ANSWERS[self.query] if self.right else f"{self.number}00"
        return f"Let me see, {self.number}.\nThat makes more.\nAnswer: {said}"


def samples(step: int | None = None) -> Iterator[Sample]:
    for at in RIGHT if step is None else (step,):
        for query, right in enumerate(RIGHT[at]):
            for number in range(K):
                yield Sample(at, query, number, number < right)


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def verl(folder: Path) -> Path:
    """`trainer.rollout_data_dir`: one <step>.jsonl a step; special tokens are left out."""
    for step in RIGHT:
        rows = [
            {
                "input": f"system\nYou are helpful.\nuser\n{s.question}\nassistant\n",
                "output": s.response,
                "gts": ANSWERS[s.query],
                "score": float(s.right),
                "step": step,
            }
            for s in samples(step)
        ]
        lines(folder / f"{step}.jsonl", rows)
    return folder


def dapo(folder: Path) -> Path:
    """verl with a reward function that returns more than a score: 1 or -1, and acc beside it."""
    rows = [
        {
            "input": f"user\n{s.question}\nassistant\n",
            "output": s.response,
            "gts": ANSWERS[s.query],
            "score": 1.0 if s.right else -1.0,
            "step": s.step,
            "acc": s.right,
            "pred": s.response.rpartition(" ")[2],
        }
        for s in samples()
    ]
    lines(folder / "7.jsonl", rows)
    return folder / "7.jsonl"


def trl(folder: Path) -> Path:
    """GRPO's `log_completions`: a Parquet file a step, a column for each reward function."""
    folder.mkdir(parents=True, exist_ok=True)
    for step in RIGHT:
        chosen = list(samples(step))
        table = {
            "step": [step] * len(chosen),
            "prompt": [
                f"<|im_start|>user\n{s.question}<|im_end|>\n<|im_start|>assistant\n" for s in chosen
            ],
            "completion": [s.response for s in chosen],
            "format_reward": [0.5] * len(chosen),
            "accuracy_reward": [float(s.right) for s in chosen],
            "advantage": [0.1 if s.right else -0.1 for s in chosen],
        }
        pq.write_table(pa.table(table), folder / f"completions_{step:05d}.parquet")
    return folder


def nemo_rl(folder: Path) -> Path:
    """The logger's train_data_step<n>.jsonl: every value a list of one, ids of tokens beside."""
    for step in RIGHT:
        rows = [
            {
                "content": [[f"<user>{s.question}", s.response]],
                "rewards": [float(s.right)],
                "generation_logprobs": [[0.0, -0.1, -0.2]],
                "prev_logprobs": [[0.0, -0.1, -0.2]],
                "input_lengths": [31],
                "idx": number,
            }
            for number, s in enumerate(samples(step))
        ]
        lines(folder / f"train_data_step{step}.jsonl", rows)
    validation = {
        "content": [[{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]],
        "rewards": [1.0],
        "idx": 0,
    }
    lines(folder / "val_data_step1.jsonl", [validation])
    return folder


def openrlhf(folder: Path) -> Path:
    """`batch_inference` after a reward model: input, output, reward."""
    rows = [
        {"input": s.question, "output": s.response, "reward": float(s.right)} for s in samples(1)
    ]
    lines(folder / "rm.jsonl", rows)
    return folder / "rm.jsonl"


def lm_eval(folder: Path) -> Path:
    """`--log_samples`: a row a document and filter, nested arguments, a column a metric."""
    for number in range(K):
        rows = [
            {
                "doc_id": s.query,
                "doc": {"question": s.question, "answer": f"#### {ANSWERS[s.query]}"},
                "target": ANSWERS[s.query],
                "arguments": {"gen_args_0": {"arg_0": s.question, "arg_1": {"until": ["\n\n"]}}},
                "resps": [[s.response]],
                "filtered_resps": [s.response.rpartition(" ")[2]],
                "filter": kind,
                "metrics": ["exact_match"],
                "doc_hash": f"{s.query:064x}",
                "prompt_hash": f"{s.query + 7:064x}",
                "target_hash": f"{s.query + 9:064x}",
                "exact_match": float(s.right and kind == "strict-match"),
            }
            for s in samples(1)
            if s.number == number
            for kind in ("strict-match", "flexible-extract")
        ]
        lines(folder / f"samples_gsm8k_2025-03-0{number + 1}T10-00-00.123456.jsonl", rows)
    return folder


def lmms_eval(folder: Path) -> Path:
    """`--log_samples` of lmms-eval: without doc and arguments, metrics as numbers or objects."""
    for number in range(K):
        rows = [
            {
                "doc_id": s.query,
                "target": ANSWERS[s.query],
                "filtered_resps": [s.response],
                "doc_hash": f"{s.query:064x}",
                "mathvista_score": {"question_id": s.query, "score": float(s.right)},
                "submission": {"id": s.query, "text": s.response},
                "input": s.question,
            }
            for s in samples(1)
            if s.number == number
        ]
        lines(folder / f"2025030{number + 1}_100000_samples_mathvista.jsonl", rows)
    return folder


def plain(folder: Path) -> Path:
    """Nobody's in particular: columns by names that people give them."""
    rows = [
        {
            "question_id": f"q{s.query}",
            "question": s.question,
            "response": s.response,
            "is_correct": s.right,
            "iteration": s.step,
            "num_tokens": 10 + s.number,
        }
        for s in samples()
    ]
    lines(folder / "mine.jsonl", rows)
    return folder / "mine.jsonl"


def lists(folder: Path) -> Path:
    """A row a query, its responses and rewards as lists."""
    rows = []
    for query, question in enumerate(QUESTIONS):
        mine = [s for s in samples(1) if s.query == query]
        rows.append(
            {
                "problem": question,
                "responses": [s.response for s in mine],
                "rewards": [int(s.right) for s in mine],
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "all.json").write_text(json.dumps(rows))
    return folder / "all.json"


class Written(NamedTuple):
    """How to write a layout, what it is recognised as, and the steps in it."""

    write: Callable[[Path], Path]
    layout: str
    steps: tuple[int, ...]


LAYOUTS = {
    "verl": Written(verl, "verl", (1, 2)),
    "dapo": Written(dapo, "verl", (1, 2)),
    "trl": Written(trl, "TRL", (1, 2)),
    "nemo_rl": Written(nemo_rl, "NeMo-RL", (1, 2)),
    "openrlhf": Written(openrlhf, "OpenRLHF", (1,)),
    "lm_eval": Written(lm_eval, "lm-eval", (1,)),
    "lmms_eval": Written(lmms_eval, "lmms-eval", (1,)),
    "plain": Written(plain, "columns by name", (1, 2)),
    "lists": Written(lists, "columns by name", (1,)),
}
