"""Fast paths of the frozen networks against the plain ones: what they may change, how far, and that nothing stays."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import fast_steps
import numpy as np
import pytest
import tiny
import torch
from fast_steps import CLASSES, apart, largest, photographs, step
from torch import Tensor, nn

from coinbench import fast
from coinbench.config import TrainConfig
from coinbench.conformance.tiny import moved
from coinbench.errors import UsageError
from coinbench.log import Log
from coinbench.methods import viscoin
from coinbench.models import Classifier, check_images, trusting
from coinbench.problem import Problem
from coinbench.rng import Rng

EXACT = 2e-4
"""Largest relative difference of a term of the loss from the plain path in fp32: the order of sums."""
ROUNDED = {"tf32": 0.02, "bf16": 0.1, "fp16": 0.05}
"""The same for a type with fewer digits: 10 bits of mantissa in TF32 and fp16, 7 in bf16."""


@pytest.fixture(scope="module")
def problem() -> Problem:
    return fast_steps.problem()


@pytest.fixture(scope="module")
def plain(problem: Problem) -> dict[str, Tensor]:
    """The plain step in fp32."""
    return step(problem, fast="off")


def gradient(f: Classifier, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(torch.log_softmax(f(images).logits, 1)[:, 0].sum(), images)
    return found


def test_a_folded_f_answers_as_f_with_no_batch_norm_left() -> None:
    # In float64, where rounding turns no rectifier over.
    f, images = fast_steps.resnet().double(), photographs(1).double()
    folded = f.folded()
    for tap in ("last", "penultimate"):
        f.tap = folded.tap = tap
        expected, found = f(images), folded(images)
        for name in ("logits", "embedding"):
            assert apart(getattr(found, name), getattr(expected, name)) < 1e-12
        assert all(apart(a, b) < 1e-12 for a, b in zip(found.maps, expected.maps, strict=True))
    assert apart(gradient(folded, images), gradient(f, images)) < 1e-10
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    # The original still has its own.
    assert sum(isinstance(part, nn.BatchNorm2d) for part in f.modules()) == 53
    assert folded.n_classes == CLASSES


def test_layout_changes_no_number_of_f_but_by_rounding(problem: Problem) -> None:
    f, images = problem.classifier, photographs(2)
    found = f(images.contiguous(memory_format=torch.channels_last))
    assert found.maps[0].is_contiguous(memory_format=torch.channels_last)
    expected = fast_steps.resnet()(images)
    assert apart(found.logits, expected.logits) < 1e-5
    assert apart(found.maps[-1], expected.maps[-1]) < 1e-5


def test_a_step_with_folded_f_is_that_of_the_plain_one(problem: Problem, plain: dict[str, Tensor]) -> None:
    assert 0 < largest(step(problem, fast="fold"), plain) < EXACT
    # Nothing of it stayed, and on the CPU nothing is done by default: the same bits as before.
    assert largest(step(problem), plain) == 0
    assert "forward" not in vars(problem.classifier)


def test_a_copy_of_an_f_that_is_sped_up_is_one_of_the_original(problem: Problem) -> None:
    with fast.accelerated(problem, TrainConfig(steps=1, fast="fold")):
        assert "forward" in vars(problem.classifier)
        # As FLAEM's own classifier may begin.
        found = copy.deepcopy(problem.classifier).requires_grad_(True)
    found(photographs(1)).logits.sum().backward()
    assert all(parameter.grad is not None for name, parameter in found.named_parameters() if "layer4.2" not in name)
    assert any(isinstance(part, nn.BatchNorm2d) for part in found.modules())


def test_a_step_in_bf16_is_near_that_in_fp32(problem: Problem, plain: dict[str, Tensor]) -> None:
    assert 1e-6 < largest(step(problem, fast="fold", precision="bf16"), plain) < ROUNDED["bf16"]


def test_g_adds_up_its_image_in_its_own_type_under_autocast(problem: Problem) -> None:
    w = problem.generator.sample(4, Rng(5))
    exact = problem.generator(w)
    with torch.autocast("cpu", torch.bfloat16):
        found = problem.generator(w)
    assert found.dtype is torch.float32
    # In bf16 throughout there would be 8 bits of mantissa: most values would be among few.
    assert found.unique().numel() > 0.5 * exact.unique().numel()
    assert (found - exact).square().mean().sqrt() < 0.01


def compiled(device: str) -> dict[str, Any]:
    here = Path(__file__)
    roots = os.pathsep.join((str(here.parent), str(here.parents[1]), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, str(here.with_name("fast_steps.py")), device],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": roots},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_compiled_g_and_p_are_traced_whole_and_compute_the_same() -> None:
    found = compiled("cpu")
    assert found["apart"]["compile"] < EXACT
    assert found["traced"] == ["StyleGAN2Generator.forward", "PerceptualNet.forward", "PerceptualNet.distance"]


def test_a_graph_is_refused_where_there_is_no_cuda() -> None:
    with pytest.raises(UsageError, match=r"train\.fast=graph needs a CUDA device; use off, fold or compile"):
        fast.way(TrainConfig(steps=1, fast="graph"), torch.device("cpu"))


def test_the_type_is_part_of_a_digest_and_the_order_of_sums_is_not() -> None:
    default = TrainConfig(steps=5)
    assert default.digest() == TrainConfig(steps=5, fast="fold").digest()
    assert len({default.digest(), *(TrainConfig(steps=5, tf32=on).digest() for on in (True, False))}) == 3
    # As before there was the setting: trained networks are found again.
    assert "tf32" not in default.key()


def test_flags_of_tf32_are_put_back() -> None:
    flags: tuple[Any, Any] = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for allowed in (True, False):
        with fast.tensor_float(allowed):
            assert [flag.allow_tf32 for flag in flags] == [allowed] * 2
    with pytest.raises(ZeroDivisionError), fast.tensor_float(not before[0]):
        _ = 1 / 0
    with fast.tensor_float(None):
        assert [flag.allow_tf32 for flag in flags] == before
    assert [flag.allow_tf32 for flag in flags] == before


def test_values_of_images_are_looked_at_but_where_the_host_would_wait() -> None:
    bright = torch.full((1, 3, 4, 4), 9.0)
    with trusting():
        check_images(bright, 3, "f")
        with pytest.raises(ValueError, match="expects float images"):
            check_images(bright, 1, "f")
    with pytest.raises(ValueError, match="got values from 9 to 9"):
        check_images(bright, 3, "f")


def test_a_graph_is_captured_once_and_left_where_it_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """What decides between a graph and the plain step, played on the CPU."""
    told: list[str] = []

    def graphed(module: nn.Module, given: tuple[Tensor, ...], *, allow_unused_input: bool) -> Any:
        told.append(f"captured {list(given[0].shape)} unused {allow_unused_input}")
        assert not torch.is_autocast_cache_enabled()
        module(*given)
        return lambda *inputs: told.append("replayed") or module(*inputs)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    monkeypatch.setattr(fast, "way", lambda train, device: "graph")
    layer = nn.Linear(2, 1)
    terms = fast.replayed(lambda x: {"a": layer(x).sum(), "b": layer(2 * x).mean()}, layer, TrainConfig(steps=1))

    def call(n: int) -> None:
        x = torch.ones(n, 2)
        found = terms(x)
        assert list(found) == ["a", "b"]
        torch.testing.assert_close(found["a"], layer(x).sum())

    call(3)
    call(3)
    assert told == ["captured [3, 2] unused True", "replayed", "replayed"]
    # A smaller batch; and a gradient that the next one is to be added to.
    call(2)
    layer(torch.ones(1, 2)).sum().backward()
    call(3)
    assert told[3:] == []
    layer.zero_grad(set_to_none=True)
    call(3)
    assert told[3:] == ["replayed"]


@pytest.fixture(scope="module")
def on_cuda(problem: Problem) -> Problem:
    """The same problem on a CUDA device."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return moved(problem, torch.device("cuda"))


@pytest.fixture(scope="module")
def plain_on_cuda(on_cuda: Problem) -> dict[str, Tensor]:
    return step(on_cuda, fast="off", tf32=False)


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["fold", "graph"])
def test_each_way_on_cuda_is_the_plain_one_but_for_the_order_of_sums(
    way: str, on_cuda: Problem, plain_on_cuda: dict[str, Tensor]
) -> None:
    assert largest(step(on_cuda, fast=way, tf32=False), plain_on_cuda) < EXACT


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_compiled_ways_on_cuda_are_the_plain_one_but_for_the_order_of_sums() -> None:
    found = compiled("cuda")["apart"]
    assert found.keys() == {"compile", "full"}
    assert max(found.values()) < EXACT


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["off", "graph"])
@pytest.mark.parametrize("precision", ROUNDED)
def test_each_type_on_cuda_is_near_fp32(
    precision: str, way: str, on_cuda: Problem, plain_on_cuda: dict[str, Tensor]
) -> None:
    kept = {"tf32": True, "precision": "fp32" if precision == "tf32" else precision}
    assert largest(step(on_cuda, fast=way, **kept), plain_on_cuda) < ROUNDED[precision]


@pytest.mark.gpu
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_with_a_graph_takes_the_steps_of_one_without(
    accumulate: int, on_cuda: Problem, tmp_path: Path
) -> None:
    def trained(way: Literal["off", "graph"]) -> np.ndarray:
        settings = TrainConfig(steps=5, batch=2, lr=1e-3, accumulate=accumulate, fast=way, tf32=False, log_every=1)
        config = viscoin.VisCoINConfig(K=4, channels=8, side=2, train=settings)
        with fast.accelerated(on_cuda, settings):
            viscoin.fit(config, on_cuda, Rng(0), Log(tmp_path / way))
        return np.array(tiny.rows(tmp_path / way / "train.csv")[1:], dtype=float)

    expected = trained("off")
    assert (expected[1:, 2] < expected[0, 2]).all()
    np.testing.assert_allclose(trained("graph"), expected, rtol=2e-3)
