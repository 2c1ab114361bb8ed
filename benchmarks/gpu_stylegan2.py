"""StyleGAN2 on a CUDA device: G forward and backward to w, and a thousand images of training, at 256 px `auto`.

    python benchmarks/gpu_stylegan2.py                  # writes benchmarks/results/gpu_stylegan2.json
    python benchmarks/gpu_stylegan2.py --device cpu --size 32 --batch 2 --images 8 --out try.json

Every variant (type, torch.compile, CUDA graph) is held against fp32 on the same latents before it is timed; the
fastest one whose images agree is what coinbench should use. Shares of the arithmetic floor count 2 FLOP a
multiply-add and the dense peak of the device for the type.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from coinbench import provenance
from coinbench.config import TrainConfig
from coinbench.files import write_json
from coinbench.generators.stylegan2 import build
from coinbench.generators.stylegan2_config import StyleGAN2Config
from coinbench.generators.stylegan2_training import Duel, build_discriminator
from coinbench.models import channels_last
from coinbench.networks.stylegan2 import StyleGAN2
from coinbench.problem import Split
from coinbench.rng import Rng, seeded

PEAK = {"fp32": 67e12, "tf32": 494e12, "bf16": 989e12, "fp16": 989e12}
"""Dense FLOP/s of an H200 by type."""
LOW = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
AGREE = 30.0
"""dB of PSNR against fp32 that a variant must reach."""
WAYS = ("eager", "compiled", "graph")


class Gradient:
    """Images of a frozen G and the gradient of their mean square in w: what a step of VisCoIN asks of G."""

    def __init__(self, network: StyleGAN2, w: Tensor, way: str) -> None:
        """Prepare a variant; compiling and capturing happen here."""
        self.network, self.w = network, w.clone().requires_grad_(True)
        self.draw: Callable[[Tensor], Tensor] = network.synthesis
        if way == "compiled":
            self.draw = torch.compile(network.synthesis, mode="max-autotune-no-cudagraphs")
        self.graph: torch.cuda.CUDAGraph | None = None
        self.images, self.gradient = self._once()
        if way == "graph":
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
        return images, gradient

    def __call__(self) -> None:
        """Do it once more."""
        if self.graph is not None:
            self.graph.replay()
        else:
            self.images, self.gradient = self._once()


def timed(call: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """Return the median seconds of a call, after two that do not count."""
    spent = []
    for number in range(rounds + 2):
        _wait(device)
        began = time.perf_counter()
        call()
        _wait(device)
        if number >= 2:
            spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def network_of(size: int, device: torch.device, kind: str) -> StyleGAN2:
    """Return a frozen G of the recipe `auto`, the same for every type."""
    with seeded(Rng(0)):
        network = StyleGAN2(size=size, depth=2, base=16384)
    network.to(device)
    channels_last(network)
    network.freeze()
    network.synthesis.low = LOW[kind]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = kind == "tf32"
    return network


def psnr(found: Tensor, expected: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB; the peak is the range of what is expected.

    >>> round(psnr(torch.tensor([0.0, 1.0]), torch.tensor([0.1, 1.0])), 1)
    22.1
    """
    error = (found.double() - expected.double()).square().mean().clamp(min=1e-30)
    return float(10 * torch.log10((expected.max() - expected.min()).double() ** 2 / error))


def generator_speed(size: int, batch: int, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each type and way: milliseconds, agreement with fp32, share of the floor."""
    rows: list[dict[str, Any]] = []
    expected = images = None
    flops = 0
    for kind in LOW:
        network = network_of(size, device, kind)
        with torch.no_grad():
            z = torch.randn(batch, network.z_dim, generator=Rng(1).torch()).to(device)
            w = network.mapping(z)[:, None].repeat(1, network.n_styles, 1)
        if not flops:
            with FlopCounterMode(display=False) as counter:
                # The counter's hooks know backward(), not grad().
                network.synthesis(w.clone().requires_grad_(True)).square().mean().backward()
            flops = counter.get_total_flops()
        for way in WAYS if device.type == "cuda" else WAYS[:1]:
            row: dict[str, Any] = {"type": kind, "way": way}
            try:
                run = Gradient(network, w, way)
                seconds = timed(run, device, rounds)
            except RuntimeError as error:
                rows.append(row | {"failed": str(error).splitlines()[0][:200]})
                continue
            if expected is None:
                images, expected = run.images.detach().clone(), run.gradient.clone()
            assert images is not None
            row |= {
                "ms": 1000 * seconds,
                "share of the floor (%)": 100 * flops / PEAK[kind] / seconds,
                "PSNR of images (dB)": psnr(run.images.detach(), images),
                "PSNR of gradients (dB)": psnr(run.gradient, expected),
            }
            row["agrees"] = min(row["PSNR of images (dB)"], row["PSNR of gradients (dB)"]) >= AGREE
            rows.append(row)
    return rows


def training_speed(size: int, images: int, device: torch.device) -> list[dict[str, Any]]:
    """Return seconds per thousand images of `auto`, one batch size, p = 0.3, for each type."""
    dice = Rng(2).numpy()
    pixels, labels = dice.integers(0, 256, (64, size, size, 3), dtype="uint8"), dice.integers(0, 2, 64)
    split = Split("train", pixels, labels, labels, pixels, device=device)
    rows = []
    for kind in LOW if device.type == "cuda" else ("fp32",):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = kind == "tf32"
        train = {"steps": 1000, "batch": 16, "lr": 2.5e-3, "betas": (0.0, 0.99)}
        train["precision"] = kind if kind in ("bf16", "fp16") else "fp32"
        config = StyleGAN2Config(train=TrainConfig.model_validate(train))
        generator = build(config, size, 3, Rng(0)).to(device).network
        duel = Duel(config, generator, build_discriminator(config, generator, Rng(0)), split)
        duel.controller.p = 0.3
        # Whole rounds of 16 steps: each has one R1 and four path length penalties.
        rounds = max(1, images // (16 * 16))
        for number in range(16):
            duel.step(number, Rng(3))
        _wait(device)
        began = time.perf_counter()
        for number in range(16 * rounds):
            duel.step(number, Rng(3))
        _wait(device)
        kimg = 16 * 16 * rounds / 1000
        rows.append({"type": kind, "seconds per kimg": (time.perf_counter() - began) / kimg})
    return rows


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--images", type=int, default=2048, help="of training, for each type")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu_stylegan2.json")
    given = parser.parse_args()
    device = torch.device(given.device)
    torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    found = {
        "what": f"StyleGAN2 `auto` at {given.size} px; G forward and backward to w at batch {given.batch}",
        "command": f"python benchmarks/gpu_stylegan2.py --size {given.size} --batch {given.batch}",
        "device": name,
        "git": provenance.git_state(provenance.here()),
        "versions": provenance.versions(),
        "generator": generator_speed(given.size, given.batch, device, given.rounds),
        "training": training_speed(given.size, given.images, device),
    }
    write_json(given.out, found)
    for row in (*found["generator"], *found["training"]):
        print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))


if __name__ == "__main__":
    main()
