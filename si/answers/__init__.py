"""Judging answers: whether a response's final answer is the reference's.

    from si.answers import Judge, judge

    judge("The answer is **B**.", "B", choices=["30°", "40°"]).correct

Pure and importable for its own sake: no torch, no storage, no signal handlers; safe in threads
and in forked processes. `docs/judging.md` states every rule.
"""

from si.answers.case import KINDS, REASONS, Case, Policy, Reference, Tolerance, Verdict, case
from si.answers.extract import Found, find
from si.answers.judge import Judge, judge
from si.answers.kinds import infer, understand
from si.answers.pool import MathPool
from si.answers.rules import RULES, Rule

__all__ = [
    "KINDS",
    "REASONS",
    "RULES",
    "Case",
    "Found",
    "Judge",
    "MathPool",
    "Policy",
    "Reference",
    "Rule",
    "Tolerance",
    "Verdict",
    "case",
    "find",
    "infer",
    "judge",
    "understand",
]
