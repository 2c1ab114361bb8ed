"""One process of a group, for test_distributed.py: trains tiny networks and writes down gradients and weights.

Run as a script, it joins the others through Lightning Fabric, which starts them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from coinbench import registry, weights
from coinbench.classifiers.labels import fit as fit_classifier
from coinbench.classifiers.small import ResNetConfig
from coinbench.config import TrainConfig
from coinbench.group import Group
from coinbench.log import Log
from coinbench.methods import flaem, flint
from coinbench.methods.start import standardise
from coinbench.networks.resnet import ResNet
from coinbench.problem import Problem
from coinbench.rng import Rng, seeded

METHODS = ("viscoin", "flint", "random")
TRAIN = TrainConfig(steps=3, batch=8, lr=0.01, optimiser="sgd", momentum=0.9, log_every=1, accumulate=2, ema=0.5)


def problem_of(group: Group) -> Problem:
    """The tiny problem, whose batches a group shares."""
    problem = tiny.make_problem(train=24)
    return replace(problem, **{name: replace(getattr(problem, name), group=group) for name in ("train", "val", "test")})


@contextmanager
def watched(folder: Path, group: Group) -> Iterator[None]:
    """Write the gradients of each step, as the optimiser is given them."""
    found: dict[str, Tensor] = {}

    def keep(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [p.grad.flatten() for of in optimiser.param_groups for p in of["params"] if p.grad is not None]
        found[str(len(found))] = torch.cat(gradients)

    hook = register_optimizer_step_pre_hook(keep)
    yield
    hook.remove()
    save_file(found, folder / f"gradients{group.rank}.safetensors")


def trainings(folder: Path, group: Group) -> None:
    """Train methods, and f with batch norm and selection; leave train.csv, gradients and weights of each."""
    problem = problem_of(group)
    for name in METHODS:
        log = Log(folder / name, group=group)
        log.folder.mkdir(exist_ok=True)
        with watched(log.folder, group):
            coin = registry.METHODS.load(name).fit(tiny.method_config(name, train=TRAIN), problem, Rng(3), log)
        weights.save(coin, log.folder / f"weights{group.rank}.safetensors", problem.networks)
    log = Log(folder / "classifier", group=group)
    log.folder.mkdir(exist_ok=True)
    with seeded(Rng(7)):
        f = ResNet(tiny.Y, tiny.CHANNELS, tiny.SIZE, 4)
    train = TRAIN.model_copy(update={"ema": None})
    with watched(log.folder, group):
        config = ResNetConfig(train=train, select_every=1)
        fit_classifier(config, f, problem.train, Rng(8), log, None, problem.val)
    weights.save(f, log.folder / f"weights{group.rank}.safetensors")
    for name, gradients in (("flaem", flaem_gradients), ("flint", flint_gradients)):
        save_file(gradients(problem, group), folder / f"{name}{group.rank}.safetensors")


def _of(coin: torch.nn.Module, loss: Callable[[], dict[str, Tensor]], group: Group) -> dict[str, Tensor]:
    """Terms, gradients and running statistics of a step in float64: batch norm makes float32 lose digits."""
    whole = nullcontext()
    if group.size > 1:
        from coinbench.distributed import whole_batches

        whole = whole_batches(coin, group)
    with whole:
        terms = loss()
    torch.stack(list(terms.values())).sum().backward()
    found = {name: p.grad for name, p in coin.named_parameters() if p.grad is not None}
    found |= {f"term {name}": value.detach().clone() for name, value in terms.items()}
    group.average(list(found.values()))
    return found | {f"buffer {name}": value for name, value in coin.named_buffers() if "running" in name}


def flaem_gradients(problem: Problem, group: Group) -> dict[str, Tensor]:
    """Of a batch of FLAEM, whose classifier has batch norms."""
    coin = flaem.build(tiny.method_config("flaem"), problem, Rng(3)).double()  # pyright: ignore[reportArgumentType]
    batch = problem.train.draw(0, 8, Rng(1))
    batch = replace(batch, images=batch.images.double())
    return _of(coin.train(), lambda: flaem.losses(coin, batch, torch.zeros(len(batch.labels), dtype=torch.long)), group)


def flint_gradients(problem: Problem, group: Group) -> dict[str, Tensor]:
    """Of a batch of FLINT whose concepts differ from image to image, so that H(E[Φ]) counts."""
    config = tiny.method_config("flint", delta=1.0, warmup=0.0)
    coin = flint.build(config, problem, Rng(3))  # pyright: ignore[reportArgumentType]
    standardise((coin.to_concepts,), lambda x: (coin.pooled(problem.classifier.taps(x)),), problem, Rng(3))
    coin.double().train()
    problem.classifier.eval()
    images = problem.train.draw(0, 8, Rng(1)).images.double()
    return _of(coin, lambda: flint.losses(coin, problem, images, 1.0), group)


def main(folder: Path) -> None:
    from coinbench.distributed import join, leave

    torch.set_num_threads(1)
    group, _ = join(2, "cpu")
    trainings(folder, group)
    # What processes tell each other, and what one tells that fails.
    found = group.join(np.square(n) for n in group.turns(range(5)))
    assert found == [0, 1, 4, 9, 16], found
    assert group.any(group.rank == 1)
    assert not group.any(False)
    for fails in (0, 1):
        try:
            group.together(lambda fails=fails: 1 / (group.rank - fails))
        except ZeroDivisionError:
            continue
        raise AssertionError("the error of one is not raised in the other")
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
