"""A scripted sampler and trainer, named so: they stand in for the engines where a test is about
the loop, storage or crashes. The same tests run with the embedded policy beside them.

The scripted policy solves `a+b+c` step by step. How often depends on the number of terms
and on its skill, which training raises by the number of examples.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from si.config.recipe import Sampling
from si.engines.port import Sampler, Trained, Trainer, TrainSettings
from si.randomness import keyed_rng
from si.records import Request, Sampled, TrainingRow
from si.store.checkpoints import Checkpoints

END = 0  # token id of the end of a turn; all other ids are code points


def write_policy(folder: Path, skill: float) -> Path:
    """A policy folder: a config that looks like a checkpoint's, and the skill."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "scripted", "skill": skill}))
    return folder


class ScriptedSampler(Sampler):
    """A sampler without a model."""

    def __init__(self, policy: Path, base: Path, settings: Sampling, family: str = "auto"):
        self.skill = json.loads((policy / "config.json").read_text())["skill"]
        self.greedy = settings.temperature == 0

    def sample(self, requests: Sequence[Request]) -> Iterator[list[Sampled]]:
        for request in requests:
            yield [self._one(request, seed) for seed in request.seeds]

    def _one(self, request: Request, seed: int) -> Sampled:
        terms = [int(term) for term in request.question.split("+")]
        chance = self.skill ** (len(terms) - 1)
        rng = keyed_rng(request.question if self.greedy else seed)
        total, lines = 0, []
        for number, term in enumerate(terms, 1):
            total += term
            lines.append(f"Step {number}: {total}")
        if rng.random() > chance:
            total += rng.choice((-1, 1, 2))
        text = "\n".join([*lines, f"Answer: {total}"])
        prefix = "".join(chr(token) for token in request.prefix_ids)
        assert text.startswith(prefix), (text, prefix)
        ids = [*(ord(char) for char in text[len(prefix) :]), END][: request.max_new_tokens]
        return Sampled(tuple(ids), "stop" if ids[-1] == END else "length", -float(len(ids)))

    def decode(self, token_ids: Sequence[int]) -> tuple[str, list[int]]:
        text, ends = "", []
        for token in token_ids:
            text += chr(token) if token != END else ""
            ends.append(len(text))
        return text, ends


class ScriptedTrainer(Trainer):
    """A trainer without a model: more examples, more skill."""

    def train(
        self,
        rows: Sequence[TrainingRow],
        start: Path,
        base: Path,
        out: Path,
        settings: TrainSettings,
        seed: int,
        checkpoints: Checkpoints | None = None,
    ) -> Trained:
        before = json.loads((start / "config.json").read_text())["skill"]
        write_policy(out, round(min(0.95, before + len(rows) / 10000), 6))
        steps = settings.steps or -(-len(rows) // settings.train.batch)
        tokens = sum(len(row.token_ids) for row in rows)
        return Trained(
            steps=steps,
            examples=len(rows),
            tokens=tokens,
            losses=[round(1 / (step + 1), 4) for step in range(steps)],
            learning_rates=[0.001] * steps,
            grad_norms=[0.5] * steps,
            provenance={
                "seconds": [0.25] * steps,
                "tokens": [100] * steps,
                "tokens_per_second": 400.0,
                "mfu": 0.5,
                "peak_memory_bytes": 1 << 20,
            },
        )
