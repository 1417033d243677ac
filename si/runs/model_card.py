"""The model card of an exported policy: what it is, where it comes from, and its scores.

Front matter as the Hugging Face hub reads it, then Markdown. Names, addresses and settings are
untrusted: none of them can end a table, start a heading or a link, or open a tag.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from si.records import LEVELS
from si.report.counts import counted
from si.report.run_tables import answers
from si.report.summary import Iteration, RunSummary, score_name
from si.report.tables import percent, percents
from si.store.keys import Ref
from si.untrusted import markdown, one_line

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
TASK = "image-text-to-text"
PAPER = "https://arxiv.org/abs/2510.26474"


class About(NamedTuple):
    """What a model card states about a policy.

    Attributes:
        iteration: its iteration (0 is policy 0), and `why` it was chosen.
        kind: `model`, `adapter` or `merged`.
        base: the name of policy 0: a name on the hub, optionally with @revision, which then goes
            into the front matter; or any other text.
        policy, policy_0, data: address and content digest.
        facts: the trainer's facts; empty for policy 0.
        settings: the recipe.
        made_with: library -> version.
    """

    run: str
    generation: int
    iteration: int
    why: str
    kind: str
    base: str
    policy: Ref
    policy_0: Ref
    data: Ref
    facts: Mapping[str, Any]
    settings: Mapping[str, Any]
    made_with: Mapping[str, str]


def card(about: About, run: RunSummary) -> str:
    """README.md of an exported policy."""
    it = run.iterations[about.iteration]
    parts = [
        f"# {markdown(about.run)}, iteration {about.iteration}",
        _lead(about, run),
        "## Scores",
        _scores(it, run.iterations[0]),
        f"{answers(next(iter(it.scores.values()), {}))}, verified against the reference answer; in "
        "brackets Wilson's 95 % interval, over queries. Levels are pass rates under policy 0: L1 "
        "is the easiest (head), L5 and U are the hardest (tail).",
    ]
    if it.metrics is not None:
        parts += ["## What it was trained on", _shares(it), _spent(about)]
    parts += [
        "## Where it comes from",
        _origin(about, run),
        "## How to load it",
        _loading(about),
        "## Licence",
        "si-ctl does not know the licences of policy 0 and of the data, so the front matter says "
        "`unknown`. Look them up before you share this model.",
        "## Recipe",
        _block(json.dumps(about.settings, indent=2, sort_keys=True)),
    ]
    return f"---\n{_front(about, it)}---\n\n" + "\n\n".join(parts) + "\n"


def _front(about: About, it: Iteration) -> str:
    """The front matter, which the hub reads: licence, base model, and the scores as its
    `model-index`."""
    name, _ = _on_hub(about.base)
    relation = "adapter" if about.kind == "adapter" else "finetune"
    base: dict[str, Any] = {"base_model": name, "base_model_relation": relation} if name else {}
    data = ModelCardData(
        license="unknown",
        library_name="peft" if about.kind == "adapter" else "transformers",
        pipeline_tag=TASK,
        tags=["si-ctl", "self-improvement"],
        model_name=one_line(about.run),
        eval_results=[_result(about, split, part) for split, part in it.scores.items()],
        **base,
    )
    return str(data.to_yaml()) + "\n"


def _result(about: About, split: str, part: Mapping[str, Any]) -> EvalResult:
    """A score as the hub keeps it. A data set of the hub has its name there, any other one
    is `local` and has its address in the store."""
    origin = str(about.settings.get("data", {}).get("source", ""))
    source, _ = _on_hub(origin.removeprefix("hub:")) if origin.startswith("hub:") else ("", "")
    address = one_line(about.data.address)
    return EvalResult(
        task_type=TASK,
        dataset_type=source or "local",
        dataset_name=source or address,
        dataset_split=one_line(split),
        dataset_args={"content": one_line(about.data.content)},
        metric_type="accuracy",
        metric_name=_metric(part),
        metric_value=round(part["accuracy"], 4),
    )


def _metric(part: Mapping[str, Any]) -> str:
    if not part.get("samples"):
        return f"accuracy of {part['n']} greedy responses"
    return f"{score_name(part['samples'])} of {part['n']} queries"


def _on_hub(base: str) -> tuple[str, str]:
    """A base's name and revision on the hub; empty if the name is not one on the hub."""
    name, _, revision = base.partition("@")
    return (name, revision) if HUB_NAME.fullmatch(name) else ("", "")


def _lead(about: About, run: RunSummary) -> str:
    kind = {
        "model": "A complete model",
        "adapter": "A LoRA adapter for policy 0",
        "merged": "A LoRA adapter merged into policy 0",
    }[about.kind]
    if about.iteration == 0:
        return f"Policy 0 of a self-improvement run, unchanged ({markdown(about.why)})."
    return (
        f"{kind}: the policy of iteration {about.iteration} ({markdown(about.why)}) of {run.last}, "
        f"trained on its own verified answers with the strategy {markdown(run.strategy)}, "
        f"K = {run.k}, by [head-tail re-balancing]({PAPER})."
    )


def _scores(it: Iteration, zero: Iteration) -> str:
    rows = []
    for split, part in it.scores.items():
        levels = (counted(it, split, [level]) for level in LEVELS)
        whole = counted(it, split)
        rows.append(
            [
                markdown(split),
                part["n"],
                part["correct"],
                f"{percent(part['accuracy'])} ({percents(whole.interval)})",
                percent(zero.accuracy(split)),
                *(f"{at.correct} of {at.n * at.samples}" if at.n else "–" for at in levels),
            ]
        )
    samples = next((part.get("samples", 0) for part in it.scores.values()), 0)
    columns = ["split", "queries", "correct", score_name(samples), "policy 0"]
    return _table([*columns, *LEVELS], rows)


def _shares(it: Iteration) -> str:
    metrics = it.metrics or {}
    rows = [
        [
            what,
            metrics[what]["total"],
            *(percent(it.share(what, [level])) for level in LEVELS),
        ]
        for what in ("successes", "examples")
    ]
    return _table(["share of", "all", *LEVELS], rows)


def _spent(about: About) -> str:
    facts = about.facts
    told = ", ".join(f"{facts.get(name, 0):,} {name}" for name in ("steps", "examples", "tokens"))
    return f"Trained: {told} of responses; {facts.get('dropped', 0):,} examples were too long."


def _origin(about: About, run: RunSummary) -> str:
    generation = f", generation {about.generation}" if about.generation > 1 else ""
    rows: list[list[Any]] = [
        ["run", markdown(about.run) + generation],
        ["recipe", markdown(about.settings.get("name", ""))],
        ["strategy", markdown(run.strategy)],
        ["K", run.k],
        ["iteration", f"{about.iteration} of {run.last} ({markdown(about.why)})"],
        ["base model", markdown(about.base)],
        ["policy 0", _ref(about.policy_0)],
        ["data", _ref(about.data)],
        ["this policy", _ref(about.policy)],
        *(["made with", f"{markdown(name)} {markdown(v)}"] for name, v in about.made_with.items()),
    ]
    return _table(["", ""], rows)


def _ref(ref: Ref) -> str:
    return f"{markdown(ref.address)}, content {markdown(ref.content)}"


def _loading(about: About) -> str:
    name, revision = _on_hub(about.base)
    base = json.dumps(name or "FOLDER OF POLICY 0")
    base += f", revision={json.dumps(revision)}" if revision else ""
    lines = ["from transformers import AutoModelForImageTextToText, AutoProcessor", ""]
    if about.kind == "adapter":
        lines[0:0] = ["from peft import PeftModel"]
        lines += [
            f"base = AutoModelForImageTextToText.from_pretrained({base})",
            'model = PeftModel.from_pretrained(base, "FOLDER")',
        ]
    else:
        lines += ['model = AutoModelForImageTextToText.from_pretrained("FOLDER")']
    lines += ['processor = AutoProcessor.from_pretrained("FOLDER")']
    return _block("\n".join(lines))


def _block(text: str) -> str:
    """An indented code block: only an empty line could end it, which does no harm."""
    return "\n".join(f"    {line}".rstrip() for line in text.split("\n"))


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
