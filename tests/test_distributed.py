"""Several processes: the losses, gradients and numbers of one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import group_member
import numpy as np
import pytest
import random_weights
import small_cell
import tiny
import torch
from commands import in_process
from safetensors.numpy import load_file

from coinbench import records, results
from coinbench.cache import Cache
from coinbench.digests import evaluate_digest
from coinbench.errors import Interrupted, Lost, UsageError
from coinbench.executors.local import LocalExecutor
from coinbench.group import Group, launched, linked
from coinbench.log import Log
from coinbench.plan import Request, cells, resolve
from coinbench.progress import Display
from coinbench.work import work
from coinbench.worker import settled

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


@pytest.mark.parametrize("name", ["flaem", "flint"])
def test_what_is_no_mean_over_images_is_that_of_the_whole_batch(folders: Folders, name: str) -> None:
    one, two = (load_file(folder / f"{name}0.safetensors") for folder in folders)
    # FLINT's entropy of the mean is far from 0, FLAEM's statistics from those at the start.
    telling = one["term conciseness"] if name == "flint" else one["buffer classifier.stem.1.running_mean"]
    assert np.abs(telling).max() > 1e-3
    close(two, one, 1e-12)


SETS = (
    *(change for change in small_cell.SETS if not change.startswith("method.train.batch")),
    *("method.train.batch=4", "evaluation.batch=8", "evaluation.permutations=2", "evaluation.random_draws=1"),
)
METRICS = "accuracy,mse,perceptual,frechet,faithfulness,consistency,sparsity"


def test_an_evaluation_by_two_processes_has_the_numbers_of_one(tmp_path: Path) -> None:
    compare(tmp_path, METRICS, SETS)


@pytest.mark.slow
def test_two_processes_have_lpips_fid_and_kid_of_one(tmp_path: Path) -> None:
    alexnet = random_weights.trunk("alexnet", tmp_path / "alexnet.pth")
    inception = random_weights.inception(tmp_path / "inception.pth")
    given = (f"evaluation.weights.alexnet={alexnet}", f"evaluation.weights.inception={inception}")
    # AlexNet takes no images below 32 px.
    small = tuple(change for change in SETS if not change.startswith("data."))
    found = compare(
        tmp_path, "lpips_alex,inception", (*small, "data.n_train=24", "data.n_test=12", "data.size=32", *given)
    )
    assert found == {"pd_alex_file", "fd_inception_file", "kd_inception_file"}


def compare(tmp_path: Path, metrics: str, sets: tuple[str, ...]) -> set[str]:
    """Measure a method by one process, and again by two; return the names of what was measured."""
    config = resolve(Request(methods="flint", datasets="birds", metrics=metrics, sets=sets))
    cache, one, two = Cache(tmp_path / "cache"), tmp_path / "one", tmp_path / "two"
    (planned,) = cells(config, cache, one)
    work(planned, cache, torch.device("cpu"), Log(planned.folder))
    # What was trained stays, what was measured goes, and what was seen of the originals.
    cache.drop("evaluate", evaluate_digest(planned.cell))
    shutil.rmtree(cache.root / "features", ignore_errors=True)
    # A thread for each process, as here.
    executor = LocalExecutor(max(1, (os.cpu_count() or 1) // 2), cache.root, "cpu", devices=2)
    (again,) = cells(config, cache, two)
    (outcome,) = executor.run([again], Display(quiet=True)).values()
    assert outcome.exit_code == 0, outcome
    assert not outcome.kept
    other = again.folder
    assert (other / "results.csv").read_bytes() == (planned.folder / "results.csv").read_bytes()
    files = sorted(path.name for path in (planned.folder / "samples").iterdir())
    assert files == sorted(f"{name}.parquet" for name in metrics.split(","))
    for name in files:
        a, b = (records.read(folder / "samples" / name) for folder in (planned.folder, other))
        assert a.keys() == b.keys()
        for column, values in a.items():
            # No row twice, none missing, in the same order.
            np.testing.assert_array_equal(b[column], values, err_msg=f"{name} {column}")
    images = [path.relative_to(other) for path in sorted((other / "images").rglob("*.png"))]
    assert images
    assert all((other / path).read_bytes() == (planned.folder / path).read_bytes() for path in images)
    return set(results.read(other)["metric"])


def _run(capfd: pytest.CaptureFixture[str], folder: Path, *words: object, without: str = "none") -> str:
    changes = [word for change in SETS if not change.startswith(without) for word in ("--set", change)]
    ran = in_process(
        capfd,
        "run",
        "-m",
        "flint",
        "-d",
        "birds",
        *changes,
        "--cache",
        folder / "cache",
        "--out",
        folder / "out",
        *words,
    )
    assert not (folder / "cache" / "fit").exists()
    return small_cell.last_line(ran, 2)


def test_what_processes_cannot_share_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    several = ("--device", "cpu", "--devices")
    line = _run(capfd, tmp_path, *several, 3)
    assert "problem.classifier.train.batch = 8: 3 processes cannot take equal shares" in line
    assert "multiple of 3, or take 1, 2, 4, 8 processes" in line
    line = _run(capfd, tmp_path, *several, 4, "--set", "method.train.batch=6")
    assert "methods.flint.train.batch = 6: 4 processes" in line
    other = ("--set", "problem.generator.net=stylegan2")
    line = _run(capfd, tmp_path, *several, 2, *other, without="problem.generator")
    assert "trains on one device only; train it first with `coinbench pretrain generator --dataset birds`" in line
    assert "--auto-batch: works on one device" in _run(capfd, tmp_path, *several, 2, "--auto-batch")
    assert "--device cuda:1: names one device" in _run(capfd, tmp_path, "--device", "cuda:1", "--devices", 2)


def test_without_the_extra_one_line_names_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    line = _run(capfd, tmp_path, "--device", "cpu", "--devices", 2)
    assert "pip install 'coinbench[distributed]'" in line


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 1),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4"}, 4),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"}, 8),
        # A batch script, and a shell that srun opened.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, 1),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, 1),
    ],
)
def test_launchers_are_known_by_their_environment(
    environment: dict[str, str], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched() == count


def test_shares_and_parts_make_the_batch() -> None:
    batch = np.arange(24)
    shares = [Group(rank, 3, part, 4).share(batch) for rank in range(3) for part in range(4)]
    np.testing.assert_array_equal(np.concatenate(shares), batch)
    with pytest.raises(UsageError, match=r"images in a step = 24: 5 processes"):
        Group(0, 5).share(batch)
    with pytest.raises(UsageError, match=r"--auto-batch came to 16 equal parts .* multiples of 16"):
        Group(parts=16).share(batch)


def test_a_lost_process_is_one_line(tmp_path: Path) -> None:
    """What gloo says where the other end is gone is no news to a user; a stop is why it is gone, if there was one."""
    with pytest.raises(Lost, match=r"another process of the cell ended: its own line says why") as caught, linked():
        raise RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    assert "\n" not in str(caught.value)
    log = Log(tmp_path, group=Group(0, 2))
    assert settled(caught.value, log).exit_code == 1
    log.stop.set()
    assert isinstance(settled(caught.value, log), Interrupted)
    with pytest.raises(RuntimeError, match="out of memory"), linked():
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.slow
def test_torchrun_starts_a_run_of_several_processes(tmp_path: Path) -> None:
    words = [word for change in SETS for word in ("--set", change)]
    words += ["--metrics", "mse", "--device", "cpu", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "coinbench", "run", "-m", "flint,viscoin", "-d", "birds", *words, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # One process speaks.
    assert len(json.loads(done.stdout)["cells"]) == 2
    assert done.stderr.count("flint seed 0: done") == 1
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert again.stderr.count(": kept") == 2
