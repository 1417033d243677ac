"""Levels: each query's level, from policy 0's verdicts."""

from si.levels import levels
from si.work import work

if __name__ == "__main__":
    work("levels", levels)
