"""The synthetic data sets: how many puzzles of each family and difficulty every split has."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from si.embedded.families import (
    DIFFICULTIES,
    FAMILIES,
    Mix,
    generate,
    generate_slices,
    uniform_mix,
)

# A slice of training queries: long-tailed, 160/120/60/40/20 over the difficulties.
LONG_TAILED: Mix = {
    (family, difficulty): total // len(FAMILIES)
    for family in FAMILIES
    for difficulty, total in zip(DIFFICULTIES, (160, 120, 60, 40, 20), strict=True)
}


@dataclass(frozen=True)
class PuzzleSet:
    """The mix of each split.

    Attributes:
        train: of one slice, the queries of an iteration with `data.schedule: fresh`.
    """

    train: Mix
    dev: Mix
    test: Mix

    def generate(self, seed: int, slices: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """(split, queries as `families.generate` returns them): disjoint training slices, dev and
        test."""
        for queries in generate_slices("train", self.train, seed, slices):
            yield "train", queries
        yield "dev", generate("dev", self.dev, seed)
        yield "test", generate("test", self.test, seed)

    def sizes(self, slices: int) -> dict[str, int]:
        """Split -> number of queries."""
        train = slices * sum(self.train.values())
        return {"train": train, "dev": sum(self.dev.values()), "test": sum(self.test.values())}


SETS = {
    "synth:embedded": PuzzleSet(LONG_TAILED, uniform_mix(200), uniform_mix(500)),
    "synth:puzzles": PuzzleSet(uniform_mix(400), uniform_mix(100), uniform_mix(1000)),
}
