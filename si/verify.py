"""The verifier under the import path that custom verifiers have always used."""

from si.answers import Case, Judge, MathPool, Verdict, judge
from si.answers import find as extract
from si.answers.custom import Judgement

__all__ = ["Case", "Judge", "Judgement", "MathPool", "Verdict", "extract", "judge"]
