"""Rewards for other tools, by the same rules: verl, TRL, and graders of lm-eval style.

    # verl: custom_reward_function.path=.../si/answers/rewards.py, name=compute_score
    # TRL:  GRPOTrainer(..., reward_funcs=answer_reward)

They are plain functions of this module, so that forked and spawned workers can import them, and
safe in threads: there are no signal handlers.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from si.answers.case import Case, Policy, Tolerance, Verdict, case
from si.answers.judge import Judge
from si.answers.pool import MathPool

_lock = threading.Lock()
_judges: dict[Policy, Judge] = {}


def _unlock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock)  # another thread may have held it


def judge_for(policy: Policy) -> Judge:
    """This process's judge for a policy; all of them share one pool of processes."""
    with _lock:
        known = next(iter(_judges.values()), None)
        if policy not in _judges:
            _judges[policy] = Judge(policy, known.pool if known else MathPool(size=1))
        return _judges[policy]


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    **_: Any,
) -> float:
    """verl's reward function: 1.0 for a correct response, else 0.0.

    Args:
        data_source: the data set's name; not used.
        solution_str: the response.
        ground_truth: the reference, or a list of accepted ones.
        extra_info: may hold `answer_kind`, `choices`, `finish_reason`, `tolerance` (a mapping of
            absolute, relative, decimals) and `profile`.
    """
    info = dict(extra_info or {})
    policy = Policy(profile=info.get("profile", "strict"))
    return float(judge_for(policy).judge(_case(solution_str, ground_truth, info)).correct)


def answer_reward(
    completions: Sequence[Any],
    answer: Sequence[Any] | None = None,
    solution: Sequence[Any] | None = None,
    **columns: Any,
) -> list[float]:
    """TRL's reward function: 1.0 for each correct completion, else 0.0.

    Args:
        completions: texts, or conversations whose last message is the response.
        answer: the data set's column of references; `solution` or `ground_truth` will do.
        columns: the data set's other columns; `answer_kind` and `choices` are used.

    Raises:
        ValueError: if the data set has no column of references.
    """
    references = answer if answer is not None else solution
    references = references if references is not None else columns.get("ground_truth")
    if references is None:
        raise ValueError("the data set has no column answer, solution or ground_truth")
    count = len(completions)
    kinds = columns.get("answer_kind") or [None] * count
    choices = columns.get("choices") or [None] * count
    cases = [
        _case(_text(completion), reference, {"answer_kind": kind, "choices": options})
        for completion, reference, kind, options in zip(
            completions, references, kinds, choices, strict=True
        )
    ]
    return [float(verdict.correct) for verdict in judge_for(Policy()).judge_all(cases)]


def process_results(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """A grader of lm-eval and lmms-eval tasks (`process_results`), in the lenient profile.

    Args:
        doc: the row: `answer` (or target, ground_truth, label), `choices`, `answer_kind`.
        results: the responses; the first one is graded.
    """
    return {"exact_match": float(grade(doc, results[0]).correct)}


def grade(doc: Mapping[str, Any], response: Any, profile: Any = "lenient") -> Verdict:
    """The verdict on one response to a row."""
    names = ("answer", "target", "ground_truth", "reference", "label")
    reference = next(doc[name] for name in names if doc.get(name) is not None)
    return judge_for(Policy(profile=profile)).judge(_case(_text(response), reference, doc))


def _case(response: str, reference: Any, info: Mapping[str, Any]) -> Case:
    near = info.get("tolerance")
    return case(
        response,
        reference,
        info.get("answer_kind") or None,
        info.get("choices") or None,
        finish_reason=str(info.get("finish_reason") or "stop"),
        tolerance=Tolerance(**near) if isinstance(near, Mapping) else None,
    )


def _text(completion: Any) -> str:
    while isinstance(completion, list | tuple) and completion:
        completion = completion[-1]
    if isinstance(completion, Mapping):
        completion = completion.get("content") or ""
        if isinstance(completion, list):
            completion = "".join(part.get("text") or "" for part in completion)
    return completion if isinstance(completion, str) else ""
