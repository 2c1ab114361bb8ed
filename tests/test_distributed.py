"""Several processes: the losses, gradients and numbers of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import group_member
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

from coinbench.group import Group

Folders = tuple[Path, Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """What one process leaves, trained here, and what two leave that share each batch."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(tests), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tests / "group_member.py"), str(two)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        group_member.trainings(one, Group())
        _, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint
    return one, two


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    """Check that all tensors are equal, relative to the largest entry of each."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, float(np.abs(value).max(initial=0)))
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("name", [*group_member.METHODS, "classifier"])
def test_two_processes_have_losses_and_gradients_of_one(folders: Folders, name: str) -> None:
    one, two = (folder / name for folder in folders)
    (header, *a), (also, *b) = tiny.rows(one / "train.csv"), tiny.rows(two / "train.csv")
    assert header == also
    assert len(a) == group_member.TRAIN.steps
    np.testing.assert_allclose(np.array(b, dtype=float), np.array(a, dtype=float), rtol=1e-5, atol=1e-5)
    for kind in ("gradients", "weights"):
        whole, first, second = (load_file(at / f"{kind}{n}.safetensors") for at, n in ((one, 0), (two, 0), (two, 1)))
        close(first, whole, 1e-5)
        assert all(np.array_equal(first[key], second[key]) for key in first), "the processes drift apart"
    assert len(load_file(one / "gradients0.safetensors")) == group_member.TRAIN.steps


@pytest.mark.parametrize(("name", "tolerance"), [("flaem", 1e-12), ("flint", 1e-5)])
def test_terms_that_are_no_mean_over_images_are_those_of_the_whole_batch(
    folders: Folders, name: str, tolerance: float
) -> None:
    one, two = (load_file(folder / f"{name}0.safetensors") for folder in folders)
    # FLINT's entropy of the mean is far from 0, FLAEM's statistics from those at the start.
    telling = one["term conciseness"] if name == "flint" else one["buffer classifier.stem.1.running_mean"]
    assert np.abs(telling).max() > 1e-3
    close(two, one, tolerance)
