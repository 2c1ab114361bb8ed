"""StyleGAN2 on a CUDA device: G forward and backward to w, and seconds per thousand images of training, `auto`.

    python benchmarks/gpu_stylegan2.py                  # writes benchmarks/results/gpu_stylegan2.json
    python benchmarks/gpu_stylegan2.py --only "bf16 compiled graph,bf16 training" --out some.json
    python benchmarks/gpu_stylegan2.py --device cpu --size 32 --base 256 --batch 4 --images 64 --rounds 2 --out try.json

Every variant of G (type, torch.compile, CUDA graph) is held against fp32 on the same latents before it is timed; the
fastest one whose images and gradients agree is what coinbench should use. Shares of the arithmetic floor count 2 FLOP a
multiply-add and the dense peak of the device for the type. `grouped` is the network by grouped convolutions.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from device_runs import ONLY, TUNE, Runs, chosen, peak, table, tune, wait
from grouped import synthesise
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from coinbench.config import TrainConfig
from coinbench.fast import compiled, tensor_float
from coinbench.generators.stylegan2 import build
from coinbench.generators.stylegan2_config import StyleGAN2Config
from coinbench.generators.stylegan2_training import Duel, build_discriminator
from coinbench.models import channels_last
from coinbench.networks.stylegan2 import StyleGAN2
from coinbench.problem import Split
from coinbench.rng import Rng, seeded

LOW = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of activations in the four largest blocks; the others go in TF32 then."""
AGREE = 30.0
"""dB of PSNR against fp32 that a variant must reach."""
VARIANTS = (
    *((kind, way) for kind in LOW for way in ("eager", "graph")),
    *(("bf16", "compiled graph"), ("tf32", "compiled graph"), ("bf16", "training"), ("tf32", "training")),
    *(("bf16", "compiled"), ("tf32", "grouped"), ("fp32", "grouped"), ("fp16", "training"), ("fp32", "training")),
)
"""In the order of interest: time may run out."""
NEEDS = {"eager": 6.0, "graph": 4.0, "grouped": 27.0, "compiled": 40.0, "compiled graph": 40.0, "training": 34.0}
"""Seconds within which a variant should be done: on an H100 eager took up to 4.4 of them, grouped 24.9, training in
TF32 31.7 (results/gpu_stylegan2.json); compiling was not timed yet."""
Variants = list[tuple[str, ...]]
PERIOD = 16
"""Steps with one R1 and four path length penalties, as often as they come in training."""


class Gradient:
    """Images of a frozen G and the gradient of their mean square in w: what a step of VisCoIN asks of G."""

    def __init__(self, network: StyleGAN2, w: Tensor, way: str) -> None:
        """Prepare a variant; compiling and capturing happen here."""
        self.w = w.clone().requires_grad_(True)
        self.draw: Callable[[Tensor], Tensor] = network.synthesis
        if way == "grouped":
            self.draw = functools.partial(synthesise, network.synthesis)
        if way.startswith("compiled"):
            self.draw = compiled(network.synthesis.forward)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.images, self.gradient = self._once()
        if way.endswith("graph"):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._once()
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.images, self.gradient = self._once()
            self.graph.replay()

    def _once(self) -> tuple[Tensor, Tensor]:
        images = self.draw(self.w)
        (gradient,) = torch.autograd.grad(images.square().mean(), self.w)
        return images.detach(), gradient

    def __call__(self) -> None:
        """Do it once more."""
        if self.graph is not None:
            self.graph.replay()
        else:
            self.images, self.gradient = self._once()


def timed(call: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """Return the median seconds of a call, after two that do not count."""
    spent = []
    for _ in range(rounds + 2):
        wait(device)
        began = time.perf_counter()
        call()
        wait(device)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent[2:])


def make_network(size: int, base: int, device: torch.device) -> StyleGAN2:
    """Return a frozen G of the recipe `auto`, the same each time."""
    with seeded(Rng(0)):
        network = StyleGAN2(size=size, depth=2, base=base)
    channels_last(network.to(device))
    network.freeze()
    return network


def psnr(found: Tensor, expected: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB; the peak is the range of what is expected.

    >>> round(psnr(torch.tensor([0.0, 1.0]), torch.tensor([0.1, 1.0])), 1)
    23.0
    """
    error = (found.double() - expected.double()).square().mean().clamp(min=1e-30)
    return float(10 * torch.log10((expected.max() - expected.min()).double() ** 2 / error))


def count(network: StyleGAN2, w: Tensor) -> int:
    """Return the FLOP of images and gradient."""
    with FlopCounterMode(display=False) as counter:
        # The counter's hooks know backward(), not grad().
        network.synthesis(w.clone().requires_grad_(True)).square().mean().backward()
    return counter.get_total_flops()


def generator_speed(runs: Runs, size: int, base: int, batch: int, rounds: int) -> Callable[[str, str], dict[str, Any]]:
    """Return what times a variant of G: milliseconds, agreement with fp32, share of the floor."""
    network = make_network(size, base, runs.device)
    with torch.no_grad():
        z = torch.randn(batch, network.z_dim, generator=Rng(1).torch()).to(runs.device)
        w = network.mapping(z)[:, None].repeat(1, network.n_styles, 1)
    flops = count(network, w)
    with tensor_float(False):
        exact = Gradient(network, w, "eager")
    return lambda kind, way: _variant(runs, network, w, kind, way, exact, flops, rounds)


def _variant(
    runs: Runs, network: StyleGAN2, w: Tensor, kind: str, way: str, exact: Gradient, flops: int, rounds: int
) -> dict[str, Any]:
    network.synthesis.lower(LOW[kind])
    with tensor_float(kind != "fp32"):
        run = Gradient(network, w, way)
        seconds = timed(run, runs.device, rounds)
    top = peak(runs.device, kind)
    close = psnr(run.images, exact.images), psnr(run.gradient, exact.gradient)
    return {
        "ms": 1000 * seconds,
        "% of the floor": 100 * flops / top / seconds if top else None,
        "GB": runs.memory(),
        "PSNR of images (dB)": close[0],
        "PSNR of gradients (dB)": close[1],
        "agrees": min(close) >= AGREE,
    }


def training_speed(runs: Runs, size: int, base: int, batch: int, images: int) -> Callable[[str], dict[str, Any]]:
    """Return what times the training of `auto` at p = 0.3 in a type: seconds per thousand images."""
    dice = Rng(2).numpy()
    pixels, labels = dice.integers(0, 256, (64, size, size, 3), dtype="uint8"), dice.integers(0, 2, 64)
    split = Split("train", pixels, labels, labels, pixels, device=runs.device)
    periods = max(1, images // (PERIOD * batch))

    def one(kind: str) -> dict[str, Any]:
        train = {"steps": 1000, "batch": batch, "lr": 2.5e-3, "betas": (0.0, 0.99)}
        train["precision"] = kind if LOW[kind] else "fp32"
        config = StyleGAN2Config(base=base, train=TrainConfig.model_validate(train))
        generator = build(config, size, 3, Rng(0)).to(runs.device).network
        duel = Duel(config, generator, build_discriminator(config, generator, Rng(0)), split)
        duel.controller.p = 0.3
        with tensor_float(kind != "fp32"):
            for number in range(PERIOD):
                duel.step(number, Rng(3))
            wait(runs.device)
            began = time.perf_counter()
            for number in range(PERIOD * periods):
                duel.step(number, Rng(3))
            wait(runs.device)
            seconds = time.perf_counter() - began
        kimg = PERIOD * batch * periods / 1000
        return {"seconds per kimg": seconds / kimg, "GB": runs.memory(), **duel.check(PERIOD, "training")}

    return one


def measure(runs: Runs, size: int, base: int, batch: int, images: int, rounds: int, variants: Variants) -> None:
    """Run the variants that were chosen, of those that the device can do."""
    drawing = generator_speed(runs, size, base, batch, rounds)
    training = training_speed(runs, size, base, batch, images)
    for kind, way in variants:
        if runs.device.type != "cuda" and (kind != "fp32" or way == "graph"):
            continue
        if way == "training":
            runs.run({"what": way, "type": kind}, NEEDS[way], functools.partial(training, kind))
        else:
            name = {"what": "G and back", "type": kind, "way": way}
            runs.run(name, NEEDS[way], functools.partial(drawing, kind, way))


def main() -> None:
    """Measure, write the results, and print the table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--base", type=int, default=16384, help="of the channels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--images", type=int, default=512, help="of training that count, for each type")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=140, help="no variant begins that may end later")
    parser.add_argument("--only", default="", help=ONLY)
    parser.add_argument("--tune", action="store_true", help=TUNE)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu_stylegan2.json")
    given = parser.parse_args()
    variants = chosen(given.only, VARIANTS)
    tune(given.tune)
    about = {
        "what": f"StyleGAN2 `auto` at {given.size} px, batch {given.batch}: G forward and backward to w, and training",
    }
    runs = Runs(torch.device(given.device), given.seconds, given.out, about)
    runs.say(f"{runs.about['what']}; on {runs.about['device']}")
    measure(runs, given.size, given.base, given.batch, given.images, given.rounds, variants)
    print(f"\n{runs.about['what']}; {runs.about['device']}\n")
    for what in dict.fromkeys(row["what"] for row in runs.rows):
        print(table([row for row in runs.rows if row["what"] == what]) + "\n")
    agreeing = [row for row in runs.rows if row.get("agrees")]
    if agreeing:
        best = min(agreeing, key=lambda row: row["ms"])
        print(f"fastest that agrees: {best['type']}, {best['way']}, {best['ms']:.4g} ms")


if __name__ == "__main__":
    main()
