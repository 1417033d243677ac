"""What a study runs: arms and seeds as recipes, and their results read back."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from si.config.recipe import NAME, Recipe
from si.errors import RecipeError
from si.report.groups import Group
from si.report.overview import trace
from si.report.study import STEPS, VANILLA, Arm, Study
from si.report.summary import collect
from si.runs.status import report_inputs
from si.store.port import Store
from si.strategies import rule_of

CONTROLS = ("steps", "tokens")
MANY = 1000  # numbers in one range


class Plan(NamedTuple):
    """A study's arms and seeds, and the recipe that they vary.

    Attributes:
        equal_tokens: whether every strategy with a second round gets a vanilla of its own, with
            as many sampled tokens.
    """

    base: Recipe
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    equal_tokens: bool

    @classmethod
    def of(
        cls,
        base: Recipe,
        strategies: str,
        ks: Sequence[int],
        seeds: Sequence[int],
        match: str = "",
    ) -> "Plan":
        """Vanilla first of every K, then the strategies, then the controls.

        Args:
            strategies: names and compositions, separated by commas.
            match: controls, separated by commas.

        Raises:
            RecipeError: if a control or a strategy is unknown or does not fit the recipe.
        """
        controls = _names(match)
        if wrong := [name for name in controls if name not in CONTROLS]:
            raise RecipeError(
                f"--match {wrong[0]!r} is not a control", "", f"Known: {', '.join(CONTROLS)}"
            )
        names = _names(strategies)
        names = [VANILLA, *(name for name in dict.fromkeys(names) if name != VANILLA)]
        arms = [Arm(name, k) for k in ks for name in names]
        if "steps" in controls:
            arms += [Arm(arm.strategy, arm.k, STEPS) for arm in arms if arm.strategy != VANILLA]
        plan = cls(base, tuple(arms), tuple(seeds), "tokens" in controls)
        for arm in arms:
            plan.recipe(arm, seeds[0])
        return plan

    def recipe(self, arm: Arm, seed: int) -> Recipe:
        """The recipe of one run; with the control STEPS, train.match_steps names vanilla's run."""
        changed = {"strategy": arm.strategy, "k": arm.k, "seed": seed}
        try:
            found = Recipe.model_validate(self.base.model_dump() | changed)
        except ValueError as error:
            why = str(error).splitlines()
            raise RecipeError(
                f"The study cannot run {arm.name}",
                (why[2] if len(why) > 2 else why[0]).strip(),
                "Known strategies: si-ctl iterate --help",
            ) from error
        if arm.control != STEPS:
            return found
        plain = self.recipe(Arm(VANILLA, arm.k), seed).run_name
        train = found.train.model_copy(update={"match_steps": plain})
        # The control goes first: a name that is too long is cut at its end.
        name = f"steps-{found.name}"[:NAME].rstrip("-")
        return found.model_copy(update={"name": name, "train": train})

    @property
    def resampling(self) -> list[Arm]:
        """The arms that get a vanilla with their sampled tokens."""
        plain = [arm for arm in self.arms if self.equal_tokens and not arm.control]
        return [arm for arm in plain if rule_of(arm.strategy, "resample") != VANILLA]

    def twin(self, store: Store, arm: Arm, seed: int) -> Arm:
        """Vanilla with about as many sampled tokens as `arm`, by its finished run of this seed."""
        theirs, plain = (
            sum((it.spent or {}).get("tokens", 0) for it in collect(store, refs).trained)
            for refs in (
                report_inputs(store, self.recipe(each, seed).run_name)
                for each in (arm, Arm(VANILLA, arm.k))
            )
        )
        return Arm(VANILLA, equal_tokens(arm.k, theirs, plain))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def equal_tokens(k: int, theirs: float, plain: float) -> int:
    """The K with which vanilla samples about as many tokens as a strategy does with K = k.

    Args:
        theirs, plain: sampled tokens of the strategy, and of vanilla with K = k.
    """
    return max(k, round(k * theirs / plain)) if plain else k


def numbers(option: str, text: str) -> tuple[int, ...]:
    """`0..4` or `8,16` as numbers, in this order, each once.

    Raises:
        RecipeError: if it is neither.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:\.\.(\d{1,9}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + MANY:
            raise RecipeError(
                f"{option} {text!r} is not a list of numbers", "", "For example: 8,16 or 0..4"
            )
        found += range(first, last + 1)
    return tuple(dict.fromkeys(found))


def read(store: Store, plan: Plan, seeds: Sequence[int], tokens: Mapping[Arm, Arm]) -> Study:
    """The study of these seeds, whose runs are all in the store.

    Args:
        tokens: an arm with a second round -> its `twin`.
    """
    groups, traces = {}, {}
    for arm in dict.fromkeys((*plan.arms, *tokens.values())):
        names = [plan.recipe(arm, seed).run_name for seed in seeds]
        refs = {name: report_inputs(store, name) for name in names}
        runs = [(name, collect(store, refs[name])) for name in names]
        groups[arm] = Group(arm.name, runs, tuple(seeds))
        traces[arm] = trace(store, groups[arm], refs)
    return Study(groups, traces, tokens)
