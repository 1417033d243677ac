"""How fast a 7B samples on a GPU. Figures are printed (`-s`)."""

from pathlib import Path

import pytest

from tests.engines import needs
from tests.gpu import architecture, sampling

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architecture.build(tmp_path_factory.mktemp("policy"), "7b")


@pytest.mark.parametrize("queries,k", [(128, 8), (512, 1)], ids=["k8", "greedy-like"])
@needs.vllm
def test_a_7b_in_vllm(seven: Path, queries: int, k: int) -> None:
    """vLLM draws K samples a query, and one of many queries, from a 7B about pictures of 784
    tokens; it is seldom without work while requests are left."""
    figures = sampling.measure(seven, "vllm", sampling.requests(queries, k, 28, 256))
    print("\n" + sampling.told(f"7B, K={k}", figures))
    assert figures["samples"] == queries * k and figures["dropped"] == 0
    assert figures["starved"] < figures["steps"] / 2


def test_a_7b_in_transformers(seven: Path) -> None:
    """transformers draws from the same 7B, slower."""
    figures = sampling.measure(seven, "transformers", sampling.requests(8, 8, 28, 256), batch=64)
    print("\n" + sampling.told("7B, K=8", figures))
    assert figures["samples"] == 64 and figures["dropped"] == 0
