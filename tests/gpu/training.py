"""A training of some steps on random rows, and what it says of its speed."""

import json
import random
from pathlib import Path
from typing import Any

from si.config.recipe import DeepSpeed, Lora
from si.engines.hf import load_processor
from si.records import TrainingRow
from tests.gpu import architecture
from tests.unit import tiny
from tests.unit.settings import training


def rows(policy: Path, count: int, cells: int, tokens: int) -> list[TrainingRow]:
    """Rows about pictures of `cells` x `cells` tokens, four rows a picture, with responses of
    half of `tokens` to all of them."""
    tokenizer = load_processor(policy).tokenizer
    rng = random.Random(0)
    return [
        TrainingRow(
            f"Compute red plus blue minus green, {number // 4} times.",
            (tiny.picture(number // 4, cells),),
            (
                *(rng.randrange(200) for _ in range(rng.randrange(tokens // 2, tokens))),
                tokenizer.eos_token_id,
            ),
            0,
        )
        for number in range(count)
    ]


def measure(
    policy: Path, out: Path, steps: int, batch: int, cells: int, tokens: int, **more: Any
) -> dict[str, Any]:
    """Train an adapter with ZeRO-2 in bfloat16; facts and speed. `more` are settings of `train`."""
    settings = training(
        steps,
        trainer="deepspeed",
        dtype="bfloat16",
        batch=batch,
        lora=Lora(),
        max_length=2048,
        gradient_checkpointing=True,
        deepspeed=DeepSpeed(zero=2),
        **more,
    )
    from si.engines.deepspeed import DeepSpeedTrainer

    out.mkdir(parents=True)
    some = rows(policy, batch * steps, cells, tokens)
    done = DeepSpeedTrainer().train(some, policy, policy, out, settings, 0)
    architecture.free()
    return {**done.facts, "provenance": done.provenance}


def told(name: str, facts: dict[str, Any]) -> str:
    """The figures of a training in one line of JSON; the first step warms up."""
    speed = facts["provenance"]
    seconds, tokens = sum(speed["seconds"][1:]), sum(speed["tokens"][1:])
    figures = {
        "name": name,
        "device": speed["device"],
        "devices": speed["devices"],
        "seconds_per_step": round(seconds / len(speed["seconds"][1:]), 3),
        "tokens_per_second": round(tokens / seconds, 1),
        "mfu": speed["mfu"],
        "peak_memory_gb": round(speed["peak_memory_bytes"] / 1e9, 2),
        "losses": facts["losses"],
    }
    return json.dumps(figures)
