"""The rules' table, the page written from it, rewards for other tools, and unreadable shards."""

import concurrent.futures
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from si.answers import RULES, Case, Judge, Rule, rewards
from si.answers.prompts import asks_for_form
from si.answers.rewards import answer_reward, compute_score, process_results
from si.answers.rules import page
from si.answers.unread import unread
from si.cli import app

DOCS = Path(__file__).parents[2] / "docs"
RECIPES = Path(__file__).parents[2] / "jobs" / "recipes"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_decides_its_example(rule: Rule) -> None:
    """An example is judged as the table says, by the rule that it stands for."""
    verdict = rule.verdict()
    assert verdict.correct == rule.correct and getattr(verdict, rule.where) == rule.name, verdict


def test_the_page_is_written_from_the_rules() -> None:
    """docs/judging.md is what `si.answers.rules.page` returns."""
    assert (DOCS / "judging.md").read_text() == page(), "python -m si.answers.rules writes it"


def test_verl_calls_compute_score() -> None:
    """verl passes keywords and takes a float."""
    called = {"data_source": "mine", "solution_str": "<answer>B</answer>", "ground_truth": "B"}
    assert compute_score(**called, extra_info={"choices": ["a cat", "a dog"], "index": 3}) == 1.0
    assert compute_score(**called | {"ground_truth": ["A", "C"]}, extra_info=None) == 0.0


def test_trl_calls_a_reward_function() -> None:
    """TRL passes prompts, completions and the data set's columns by name, and takes floats."""
    texts = ["Answer: 12", "Answer: 13"]
    columns = {"prompts": ["?", "?"], "answer": ["12", "12"], "completion_ids": [[1], [2]]}
    assert answer_reward(completions=texts, trainer_state=None, **columns) == [1.0, 0.0]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    assert answer_reward(completions=chats, **columns) == [1.0, 0.0]
    with pytest.raises(ValueError, match="no column"):
        answer_reward(completions=texts, prompts=["?", "?"])


def test_lm_eval_calls_a_grader() -> None:
    """lm-eval passes the row and the filtered responses, and takes metrics by name."""
    doc = {"question": "How many?", "target": "7"}
    assert process_results(doc, ["The total number of cubes is 7."]) == {"exact_match": 1.0}


def _score(text: str) -> float:
    return compute_score("mine", text, "\\frac{1}{2}")


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_rewards_work_in_processes_and_threads(start: str) -> None:
    """Forked and spawned workers judge, formulas that need math-verify included."""
    texts = ["Answer: 0.5", "Answer: \\int_0^1 x dx", "Answer: 2"]
    assert [_score(text) for text in texts] == [1.0, 1.0, 0.0]
    context = multiprocessing.get_context(start)
    with context.Pool(1) as workers:
        assert workers.map(_score, texts) == [1.0, 1.0, 0.0]
        workers.close()
        workers.join()
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert list(threads.map(_score, texts * 8)) == [1.0, 1.0, 0.0] * 8


def test_a_process_forked_while_a_judge_is_made_can_judge() -> None:
    """The lock that another thread held at the fork is not held in the child."""
    with rewards._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(int(_score("Answer: 0.5") != 1.0))
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_prompts_ask_for_a_form_that_is_read(path: Path) -> None:
    """What a shipped recipe's prompt asks for is what the strict profile reads."""
    prompt = yaml.safe_load(path.read_text()).get("sampling", {}).get("prompt_template")
    assert path.stem == "embedded" or asks_for_form(prompt)


def test_config_check_warns_of_a_prompt_that_asks_for_no_form() -> None:
    """With data of your own and a bare question as prompt, the check says what to change."""
    words = ["config", "check", "--set", "data.source=data/mine-0123456789ab"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0 and "asks for no form" in said.output
    form = "sampling.prompt_template={question} End with Answer: X"
    said = CliRunner().invoke(app, [*words, "--set", form])
    assert said.exit_code == 0 and "asks for no form" not in said.output


def test_a_shard_that_cannot_be_read_is_named() -> None:
    """Over a third without an answer is reported with three examples; less is not."""
    cases = [Case(f"It is {i}, or so.", (str(i),)) for i in range(6)]
    verdicts = Judge().judge_all(cases)
    found = unread(cases, verdicts)
    assert found is not None and len(found.examples) == 3 and found.share == 1.0
    assert "100 %" in found.lines()[0] and "docs/judging.md" in found.lines()[-1]
    good = [Case("Answer: 1", ("1",))] * 12
    assert unread([*cases, *good], Judge().judge_all([*cases, *good])) is None
