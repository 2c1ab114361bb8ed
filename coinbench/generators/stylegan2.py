"""StyleGAN2 as generator G, trained with adaptive discriminator augmentation; the paper's G for photographs.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (StyleGAN2) and "Training Generative
Adversarial Networks with Limited Data" (ADA). Latents are w, after the mapping: one for each of L styles.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from coinbench import checkpoints
from coinbench.cache import CHECKPOINT
from coinbench.errors import UsageError
from coinbench.files import write_atomically
from coinbench.generators.initial import check_source, recorded_group, start_from
from coinbench.generators.stylegan2_config import StyleGAN2Config, resolution_of, settle
from coinbench.generators.stylegan2_training import R1_EVERY, Duel, build_discriminator, check_precision
from coinbench.log import Log
from coinbench.models import ImageGenerator, send
from coinbench.networks.stylegan2 import StyleGAN2
from coinbench.problem import Split, to_uint8
from coinbench.rng import Rng, seeded
from coinbench.rows import Rows
from coinbench.specs import GeneratorSpec
from coinbench.training import learning_rate

BEST = "best.safetensors"
"""The average of G with the least Fréchet distance on f so far, where f was at hand; as `init` takes it."""
NETWORKS = "networks.safetensors"
"""G, D and the average of G at the end, as `init` takes them."""


class StyleGAN2Generator(ImageGenerator):
    """Mapping and synthesis under the published names; images are drawn with constant noise."""

    def __init__(self, network: StyleGAN2, size: int, config: StyleGAN2Config) -> None:
        """Take the parts of `network`; images come out with `size` pixels a side."""
        super().__init__()
        # As attributes of this module, so that its state dict has the published names.
        self.mapping, self.synthesis = network.mapping, network.synthesis
        self.size, self.channels, self.w_dim, self.z_dim = size, network.channels, network.w_dim, network.z_dim
        self.drawn, self.crop, self.styles = network.size, config.crop, network.n_styles
        self.n_styles = network.n_styles if config.space == "w+" else 1
        self.truncation, self.cutoff = config.truncation, config.cutoff

    def forward(self, w: Float[Tensor, "B L V"]) -> Float[Tensor, "B C H W"]:
        """Draw images with constant noise, cut to [-1, 1]."""
        return self._framed(self.synthesis(w.expand(-1, self.styles, -1), "const"))

    def draw_noise(self, n: int, rng: Rng) -> tuple[Tensor, ...]:
        """Draw the noise of each layer for n images [n, H, W], on the device itself: 175 thousand numbers at 256 px."""
        return self.synthesis.draw_noise(n, rng.torch(self.mapping.w_avg.device))

    def with_noise(self, w: Float[Tensor, "B L V"], noise: tuple[Tensor, ...]) -> Float[Tensor, "B C H W"]:
        """Draw images with the noise given for each layer, cut to [-1, 1]."""
        return self._framed(self.synthesis(w.expand(-1, self.styles, -1), noise))

    def _framed(self, images: Float[Tensor, "B C R R"]) -> Float[Tensor, "B C H W"]:
        if self.crop == "wide":
            border = self.drawn // 8
            images = images[:, :, border : self.drawn - border]
        if images.shape[2:] != (self.size, self.size):
            images = nn.functional.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
        return images.clamp(-1, 1)

    def sample(self, n: int, rng: Rng) -> Float[Tensor, "n L V"]:
        """Map n draws of z ~ N(0, 1), truncated where the settings say so."""
        z = send(torch.randn(n, self.z_dim, generator=rng.torch()), self.mapping.w_avg.device)
        w = self.mapping(z)[:, None].expand(-1, self.n_styles, -1)
        return self.mapping.truncate(w, self.truncation, self.cutoff)

    def mean_latent(self) -> Float[Tensor, "V"]:
        """Return w̄, the average that training tracked."""
        return self.mapping.w_avg

    def freeze(self) -> None:
        """Compute once what no longer changes: the squared weights behind each demodulation."""
        self.network.freeze()

    @property
    def network(self) -> StyleGAN2:
        """The same parts as one network."""
        return StyleGAN2.of(self.mapping, self.synthesis)


def build(config: StyleGAN2Config, size: int, channels: int, rng: Rng) -> StyleGAN2Generator:
    """Return the network at initialisation.

    Raises:
        UsageError: there are fewer channels than one.
        DataError: `init` does not fit it.
    """
    settings, resolution = settle(config, size), resolution_of(config, size)
    if settings.base < resolution:
        raise UsageError(
            f"problem.generator.base={settings.base}: leaves no channel at {resolution} px; set at least {resolution}"
        )
    with seeded(rng.child("init")):
        network = StyleGAN2(
            size=resolution,
            channels=channels,
            z_dim=config.z_dim,
            w_dim=config.w_dim,
            depth=settings.depth,
            base=settings.base,
            most=config.most,
            clamp=config.clamp,
        )
    if isinstance(config.init, Path):
        # Before anything is fitted. A G that is taken as it is needs no D, and no G but the average.
        expected: dict[str, nn.Module] = {"G_ema": network}
        if config.finetune:
            with torch.device("meta"):
                expected |= {"G": network, "D": build_discriminator(config, network, rng)}
        check_source(config.init, expected)
    return StyleGAN2Generator(network, size, config)


def fit(config: StyleGAN2Config, network: ImageGenerator, split: Split, rng: Rng, log: Log) -> None:
    """Train on the training split; the average of G is what stays.

    Leaves beside train.csv, every `judge_kimg`, a grid of samples, and the best average by Fréchet distance on f.

    Raises:
        CoinbenchError: a loss or a weight is not finite; names step and terms.
        DataError: `init` or the checkpoint does not fit this network.
        Interrupted: asked to stop; a checkpoint was written first.
    """
    assert isinstance(network, StyleGAN2Generator)
    check_precision(config, split.device)
    generator = network.network
    discriminator = build_discriminator(config, generator, rng)
    average = start_from(config.init, generator, discriminator if config.finetune else None)
    if average is not None and not config.finetune:
        network.load_state_dict(average)
        return
    duel = Duel(config, generator, discriminator, split)
    if average is not None:
        warn_of_group(config, discriminator.b4.group, log)
        duel.average.load_state_dict(average)
    path = log.folder / CHECKPOINT
    start = duel.load(path) if path.is_file() else 0
    rows, train, judge = Rows(log, start), config.train, _Judge(config, network, duel, rng, log)
    judge.begin(start)
    began = saved = time.monotonic()
    for step in range(start, train.steps):
        if log.stop.is_set():
            duel.check(step, log.stage)
            duel.save(path, step)
            log.check()
        duel.step(step, rng)
        done, seconds = step + 1, time.monotonic() - began
        # Before a checkpoint that lies after it: what is judged late would be lost with a kill.
        judge.after(done)
        due = time.monotonic() - saved >= train.checkpoint_seconds and done < train.steps
        log_due = done % train.log_every == 0 or done == train.steps
        if log_due or due:
            terms = duel.check(step, log.stage)
            kimg = seconds / ((done - start) * train.batch / 1000)
            if log_due:
                rows.write(done, seconds, {"rate": learning_rate(train, step), **terms, "seconds per kimg": kimg})
            text = f"{done * train.batch / 1000:.3g} kimg, p {terms['p']:.3f}, sign {terms['sign']:.2f}"
            left = seconds / (done - start) * (train.steps - done)
            log.progress(done, train.steps, left, f"{text}, {kimg:.1f} s a kimg")
        if due:
            duel.save(path, done)
            saved = time.monotonic()
    checkpoints.save(log.folder / NETWORKS, duel.networks(), {"kimg": f"{train.steps * train.batch / 1000:g}"})
    with torch.no_grad():
        network.load_state_dict(duel.average.state_dict())
    network.synthesis.lower(None)


def warn_of_group(config: StyleGAN2Config, group: int, log: Log) -> None:
    """Say where D of the file that training starts from compared other numbers of images; no tensor tells it."""
    told, before = recorded_group(Path(config.init))
    if told and before != group and config.group is None:
        batch = config.train.batch
        log.say(
            f"{config.init}: D was trained with minibatch deviations over {before or 'all'} images of a batch and goes "
            f"on with {group}: set problem.generator.group={before or batch} to keep it, or ={group} to say so"
        )


class _Judge:
    """Looks at the average of G at intervals: a grid of samples, and the Fréchet distance on f where f is at hand."""

    def __init__(self, config: StyleGAN2Config, network: StyleGAN2Generator, duel: Duel, rng: Rng, log: Log) -> None:
        self.log, self.rng = log, rng.child("samples")
        self.seen = StyleGAN2Generator(duel.average, network.size, config.untruncated()).eval()
        self.every = max(1, round(config.judge_kimg * 1000 / config.train.batch))
        self.batch, self.steps = config.train.batch, config.train.steps
        self.path = log.folder / "judged.csv"
        self.lines: list[str] = []

    def begin(self, step: int) -> None:
        """Keep what was judged up to a step; later rows come again."""
        if step and self.path.is_file():
            header, *rows = self.path.read_text(encoding="utf-8").splitlines()
            self.lines = [header, *(row for row in rows if int(row.partition(",")[0]) <= step)]

    @torch.no_grad()
    def after(self, step: int) -> None:
        """Judge, where it is due."""
        if step % self.every and step != self.steps:
            return
        save_grid(self.seen, self.log.folder / f"samples-{step:08d}.png", self.rng)
        if self.log.judge is None:
            return
        values = self.log.judge(self.seen)
        best = min((float(row.split(",")[2]) for row in self.lines[1:]), default=math.inf)
        kimg = f"{step * self.batch / 1000:g}"
        self.lines = self.lines or [",".join(("step", "kimg", *values))]
        self.lines.append(",".join((str(step), kimg, *(f"{v:.6g}" for v in values.values()))))
        with write_atomically(self.path) as temporary:
            temporary.write_text("\n".join(self.lines) + "\n", encoding="utf-8")
        self.log.say(f"{kimg} kimg: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
        first = next(iter(values.values()))
        if first < best:
            state = {f"G_ema.{k}": v for k, v in self.seen.state_dict().items()}
            checkpoints.save(self.log.folder / BEST, state, {"kimg": kimg} | {k: f"{v:.6g}" for k, v in values.items()})


@torch.no_grad()
def save_grid(generator: ImageGenerator, path: Path, rng: Rng, side: int = 8) -> None:
    """Write side x side samples as one PNG, small ones enlarged by whole pixels."""
    w = generator.sample(side * side, rng)
    # Row by row: a large G has no room for all at once.
    images = np.concatenate([to_uint8(generator(part)) for part in w.split(side)])
    height, width = images.shape[1:3]
    rows = images.reshape(side, side, height, width, -1).swapaxes(1, 2).reshape(side * height, side * width, -1)
    zoom = max(1, round(768 / rows.shape[0]))
    rows = rows.repeat(zoom, 0).repeat(zoom, 1)
    with write_atomically(path) as temporary:
        Image.fromarray(rows.squeeze(-1) if rows.shape[-1] == 1 else rows).save(temporary, format="PNG")


GENERATOR = GeneratorSpec(
    config=StyleGAN2Config,
    build=build,
    fit=fit,
    period=R1_EVERY,
    # G and D take steps in turn outside the shared loop; a G that is taken as it is needs none.
    alone=lambda config: config.init == "scratch" or config.finetune,
    source="Karras et al. 2020 (StyleGAN2; ADA); VisCoIN paper, section 4 and table 3",
)
