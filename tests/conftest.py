"""Settings of all tests."""

from __future__ import annotations

import torch


def pytest_configure() -> None:
    # The sums of a threaded kernel depend on the number of threads, and tiny tensors gain nothing from them.
    torch.set_num_threads(1)
