"""The one training loop, for f, G and every method: schedule, accumulation, EMA, precision, log, checkpoint, resume.

Everything random in a step is keyed by the step's number, so a run that was cut and resumed computes what an
uninterrupted one computes, bit for bit on the CPU.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from coinbench import checkpoints
from coinbench.cache import CHECKPOINT
from coinbench.config import TrainConfig
from coinbench.errors import CoinbenchError, DataError, UsageError
from coinbench.files import cannot_write
from coinbench.log import Log
from coinbench.models import channels_last
from coinbench.selection import Selection
from coinbench.weights import own_state

Loss = Callable[[int], dict[str, Tensor]]
"""Micro-batch number -> weighted terms, whose sum is minimised."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the rate of a step (0-based).

    >>> c = TrainConfig(steps=10, lr=1.0, schedule="linear", decay_from=0.5)
    >>> [round(learning_rate(c, s), 2) for s in (0, 5, 9)]
    [1.0, 1.0, 0.2]
    """
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    share = step / config.steps
    done = max(0.0, (share - config.decay_from) / (1 - config.decay_from))
    factor = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "step": 0.1 ** sum(share >= m for m in config.milestones),
        "staircase": config.decay ** max(0, (step - round(config.decay_from * config.steps)) // config.decay_every),
    }[config.schedule]
    return config.lr * warm * factor


def train(
    module: nn.Module,
    loss: Loss,
    config: TrainConfig,
    log: Log,
    shared: Iterable[nn.Module] = (),
    selection: Selection | None = None,
) -> None:
    """Minimise `loss` over the parameters of `module` that require a gradient, in place.

    Args:
        module: ends with the trained (or averaged, or selected) weights, in eval mode.
        loss: called once per micro-batch with its number.
        config: steps, rate, precision and the rest.
        log: its folder gets train.csv and a checkpoint, which is continued where there is one and stays at the end:
            whoever stores the weights drops it, as `Cache.stage` does.
        shared: frozen networks inside `module`: kept in eval mode and out of checkpoints.
        selection: looks at the weights now and then; the best ones are what the training ends with.

    Raises:
        CoinbenchError: the loss is not finite; names step, terms and the last good checkpoint.
        Interrupted: asked to stop; a checkpoint was written first.
    """
    shared = tuple(shared)
    state = _State(module, config, shared, selection)
    path = log.folder / CHECKPOINT
    start = state.load(path) if path.is_file() else 0
    rows = Rows(log, start)
    channels_last(module)
    state.learn()
    began = saved = time.monotonic()
    for step in range(start, config.steps):
        if log.stop.is_set():
            state.save(path, step)
            log.check()
        terms = state.step(loss, step)
        total = math.fsum(terms.values())
        if not math.isfinite(total):
            raise CoinbenchError(_not_finite(log.stage, step, terms, path))
        done = step + 1
        if selection is not None and selection.due(done, config.steps):
            score = state.look(done)
            log.say(f"step {done}: {selection.of} {score:.4f}")
        seconds = time.monotonic() - began
        if done % config.log_every == 0 or done == config.steps:
            rows.write(done, seconds, {"rate": learning_rate(config, step), "loss": total, **terms})
        log.progress(
            done,
            config.steps,
            seconds / (done - start) * (config.steps - done),
            f"loss {total:.4g}",
        )
        if time.monotonic() - saved >= config.checkpoint_seconds and done < config.steps:
            state.save(path, done)
            saved = time.monotonic()
    state.finish(log.folder)
    module.eval()


def _not_finite(stage: str, step: int, terms: dict[str, float], path: Path) -> str:
    listed = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
    kept = f"last good checkpoint: {path}" if path.is_file() else "no checkpoint was written yet"
    return f"{stage}: the loss is not finite at step {step} ({listed}); {kept}; lower train.lr or set train.clip"


class _State:
    """Everything that a checkpoint holds: own weights, optimiser, average, best weights so far, step."""

    def __init__(
        self, module: nn.Module, config: TrainConfig, shared: tuple[nn.Module, ...], selection: Selection | None
    ) -> None:
        self.module, self.config, self.shared, self.selection = module, config, shared, selection
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("nothing to train: no parameter requires a gradient")
        self.device = self.parameters[0].device
        self.optimiser = _optimiser(self.parameters, config)
        if config.precision == "fp16" and self.device.type != "cuda":
            raise UsageError("train.precision=fp16 needs a CUDA device; use fp32 or bf16")
        self.scaler = GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.average = {k: v.clone() for k, v in self._own().items()} if config.ema else {}

    def _own(self) -> dict[str, Tensor]:
        return own_state(self.module, self.shared)

    def learn(self) -> None:
        """Put the module into training mode, the shared networks inside it into eval mode."""
        self.module.train()
        for network in self.shared:
            network.eval()

    @torch.no_grad()
    def look(self, done: int) -> float:
        """Let the selection score the weights that would be kept if training ended here."""
        assert self.selection is not None
        own = self._own()
        learning = {name: value.clone() for name, value in own.items()} if self.average else {}
        self._put(self.average)
        self.module.eval()
        score = self.selection.look(done, own)
        self._put(learning)
        self.learn()
        return score

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        """Overwrite the module's own weights by `values`; with none they stay."""
        for name, value in self._own().items() if values else ():
            value.copy_(values[name])

    def step(self, loss: Loss, step: int) -> dict[str, float]:
        """Do one optimiser step; return the mean of each term over the micro-batches."""
        config = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(config, step)
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision, torch.float32)
        for micro in range(config.accumulate):
            with torch.autocast(self.device.type, low, enabled=config.precision != "fp32"):
                terms = loss(step * config.accumulate + micro)
                total = torch.stack(list(terms.values())).sum() / config.accumulate
            self.scaler.scale(total).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / config.accumulate
        if not math.isfinite(math.fsum(sums.values())):
            # The caller stops here; the weights stay those of the step before.
            return sums
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if not self.scaler.is_enabled() and not norm.isfinite():
            # A finite loss may have a gradient that is not (fp16's scaler skips such a step by itself).
            return sums | {"gradient": float(norm)}
        if config.clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, config.clip, norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if config.ema:
            self._update_average(config.ema)
        return sums

    @torch.no_grad()
    def _update_average(self, decay: float) -> None:
        for name, value in self._own().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    @torch.no_grad()
    def finish(self, folder: Path) -> None:
        """Put the average, where there is one, in place of the last weights; and the best in place of those."""
        self._put(self.average)
        if self.selection is not None:
            self.selection.finish(self._own(), folder)

    def save(self, path: Path, step: int) -> None:
        """Write a checkpoint, whole or not at all."""
        tensors = self._tensors() | checkpoints.of_optimiser(self.optimiser, "optimiser")
        metadata = {"step": str(step), "train": self.config.digest(), "scale": repr(self.scaler.get_scale())}
        if self.selection is not None:
            tensors |= self.selection.tensors()
            metadata["selection"] = self.selection.told()
        checkpoints.save(path, tensors, metadata)

    def _tensors(self) -> dict[str, Tensor]:
        average = {f"average.{k}": v for k, v in self.average.items()}
        return {f"module.{k}": v for k, v in self._own().items()} | average

    @torch.no_grad()
    def load(self, path: Path) -> int:
        """Continue from a checkpoint; return the step to do next."""
        try:
            tensors, metadata = checkpoints.read(path, self.config.digest())
            mine = self._tensors()
            checkpoints.check(mine, tensors)
            sgd = self.config.optimiser == "sgd"
            states = checkpoints.to_optimiser(tensors, "optimiser", self.parameters, sgd)
            step = checkpoints.count(metadata, self.config.steps)
            if self.selection is not None:
                self.selection.load(tensors, metadata["selection"], step, self._own())
            for key, value in mine.items():
                value.copy_(tensors[key])
            checkpoints.restore(self.optimiser, states)
            if self.scaler.is_enabled():
                self.scaler.update(float(metadata["scale"]))
            return step
        except DataError:
            raise
        # Besides its own errors safetensors passes on those of the system and of torch.
        except Exception as error:
            raise checkpoints.foreign(path, error) from error


def _optimiser(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimiser == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return torch.optim.Adam(parameters, config.lr, betas=config.betas, weight_decay=config.weight_decay)


class Rows:
    """train.csv: step, seconds and named values; on resume cut back to the checkpoint."""

    def __init__(self, log: Log, start: int) -> None:
        """Open the log of a training that goes on from step `start`."""
        self.path = log.folder / "train.csv"
        self.board = _board(log, start)
        self.seconds = 0.0
        kept: list[list[str]] = []
        if start and self.path.is_file():
            kept, self.seconds = _kept(self.path, start)
        self.header = bool(kept)
        self._write("w", kept)

    def write(self, step: int, seconds: float, values: dict[str, float]) -> None:
        """Add a row; the names are those of the first row.

        Args:
            step: of the training.
            seconds: since this process began.
            values: by name.
        """
        rows = [[str(step), f"{self.seconds + seconds:.2f}", *(f"{v:.6g}" for v in values.values())]]
        if not self.header:
            rows.insert(0, ["step", "seconds", *values])
            self.header = True
        self._write("a", rows)
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
            # A thread of its own writes them, and nobody waits for it at the end.
            self.board.flush()

    def _write(self, mode: Literal["w", "a"], rows: list[list[str]]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode, newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(rows)
        except OSError as error:
            raise cannot_write(self.path, error) from error


def _kept(path: Path, start: int) -> tuple[list[list[str]], float]:
    """Return header and rows of a log up to a step, and the seconds until then.

    Of a damaged log nothing is kept: the checkpoint alone decides how a training goes on.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        # A full disk may have left half a row.
        rows = [row for row in rows if len(row) == len(header) and int(row[0]) <= start]
        return [header, *rows], float(rows[-1][1]) if rows else 0.0
    except (OSError, ValueError, IndexError, csv.Error):
        return [], 0.0


def _board(log: Log, start: int):
    if not log.tensorboard:
        return None
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise UsageError("--tensorboard needs the extra: pip install 'coinbench[track]'") from error
    return SummaryWriter(str(log.folder / "tensorboard"), purge_step=start)
