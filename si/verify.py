"""The verifier under the import path that custom verifiers have always used."""

from si.stages.verify import Judgement, judge

__all__ = ["Judgement", "judge"]
