"""What tests of the real engines need; where it is missing, they are skipped by name."""

import importlib.util

import pytest


def missing(name: str) -> bool:
    return importlib.util.find_spec(name) is None


vllm = pytest.mark.skipif(missing("vllm"), reason="vllm is not installed: make test-engines")
deepspeed = pytest.mark.skipif(
    missing("deepspeed"), reason="deepspeed is not installed: make test-engines"
)
