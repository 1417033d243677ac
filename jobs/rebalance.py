"""Rebalance: training examples from successes, as the strategy reshapes them."""

from si.rebalance import rebalance
from si.work import work

if __name__ == "__main__":
    work("rebalance", rebalance)
