"""Evaluate: accuracy on held-out queries, by level."""

from si.evaluate import evaluate
from si.work import work

if __name__ == "__main__":
    work("evaluate", evaluate)
