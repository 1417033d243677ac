"""Evaluate: accuracy on held-out queries, by level."""

from si.stages.evaluate import evaluate
from si.stages.worker import work

if __name__ == "__main__":
    work("evaluate", evaluate)
