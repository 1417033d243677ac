"""What needs a GPU is skipped where there is none, and says how to run it where there is one."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            how = f"no GPU here; on a machine with one: make test-gpu TESTS={item.nodeid}"
            item.add_marker(pytest.mark.skip(reason=how))
