"""Verify: decide of every rollout whether its final answer is right."""

from si.stages.verify import verify
from si.stages.worker import work

if __name__ == "__main__":
    work("verify", verify)
