"""Explore: sample responses, a shard of queries at a time."""

from si.explore import explore
from si.work import work

if __name__ == "__main__":
    work("explore", explore)
