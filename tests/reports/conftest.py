"""Fixtures of the report tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """The maker of synthetic run folders (loaded by path: "reports" is also the name of the package)."""
    path = Path(__file__).with_name("fake_run.py")
    spec = importlib.util.spec_from_file_location("fake_run", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_run
