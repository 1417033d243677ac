"""Verify: decide of every rollout whether its final answer is right."""

from si.verify import verify
from si.work import work

if __name__ == "__main__":
    work("verify", verify)
