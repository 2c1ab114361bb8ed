"""Settings of all tests."""

from __future__ import annotations

import pytest
import torch


def pytest_configure() -> None:
    # The sums of a threaded kernel depend on the number of threads, and tiny tensors gain nothing from them.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A file stays in one process: those with slow tests go first, so that none of them is what all others wait for.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
