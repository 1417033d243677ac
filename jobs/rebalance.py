"""Rebalance: training examples from successes, as the strategy reshapes them."""

from si.stages.rebalance import rebalance
from si.stages.worker import work

if __name__ == "__main__":
    work("rebalance", rebalance)
