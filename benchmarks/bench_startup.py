"""Wall time of short commands, each in a process of its own, beside bare Python and `import torch`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment, sets
from pytest_benchmark.fixture import BenchmarkFixture

COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "python -c 'import torch'": ("-c", "import torch"),
    "coinbench --help": ("-m", "coinbench", "--help"),
    "coinbench ls": ("-m", "coinbench", "ls"),
    "coinbench plan --no-measure": ("-m", "coinbench", "plan", "--no-measure"),
    "coinbench run, nothing left to do": ("-m", "coinbench", "run", "--quiet", "--out", "out"),
}
CELL = ("--methods", "viscoin", "--dataset", "birds", "--metrics", "accuracy", *sets())


def call(folder: Path, words: tuple[str, ...]) -> None:
    """Run Python with these words."""
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment(folder / "cache"), capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of one tiny cell."""
    place = tmp_path_factory.mktemp("startup")
    call(place, (*COMMANDS["coinbench run, nothing left to do"], *CELL))
    return place


@pytest.mark.parametrize("name", COMMANDS)
def bench_startup(benchmark: BenchmarkFixture, folder: Path, name: str) -> None:
    benchmark.group = "start-up"
    words = COMMANDS[name]
    if "plan" in words or "run" in words:
        words += CELL
    benchmark.pedantic(call, (folder, words), rounds=5, warmup_rounds=1)
