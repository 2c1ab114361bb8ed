"""The small version of benchmarks/kill_resume.py: a run that is killed thrice has the numbers of one that is not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are found in /proc"),
]


@pytest.fixture
def kill_resume() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "kill_resume.py"
    spec = importlib.util.spec_from_file_location("kill_resume", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_killed_runs_end_with_the_same_results(kill_resume: ModuleType, tmp_path: Path) -> None:
    said: list[str] = []
    report = kill_resume.kill_and_resume(tmp_path, kills=3, seed=3, steps=20, say=said.append)
    assert report.kills == 3, said
    assert report.complete >= 1, said
    assert report.different == report.failed == [], said
    assert max(report.orphan_seconds, default=0.0) < kill_resume.PATIENCE, said
    assert [pid for folder in tmp_path.iterdir() for pid in kill_resume.workers(folder)] == []
