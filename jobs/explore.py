"""Explore: sample responses, a shard of queries at a time."""

from si.stages.explore import explore
from si.stages.worker import work

if __name__ == "__main__":
    work("explore", explore)
