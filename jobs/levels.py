"""Levels: each query's level, from policy 0's verdicts."""

from si.stages.levels import levels
from si.stages.worker import work

if __name__ == "__main__":
    work("levels", levels)
