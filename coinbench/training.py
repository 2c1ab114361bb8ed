"""The one training loop, for f, G and every method: schedule, accumulation, EMA, precision, log, checkpoint, resume.

Everything random in a step is keyed by the step's number, so a run that was cut and resumed computes what an
uninterrupted one computes, bit for bit on the CPU. Several processes share each batch and average their gradients.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from coinbench import checkpoints
from coinbench.cache import CHECKPOINT
from coinbench.config import TrainConfig
from coinbench.errors import CoinbenchError, DataError, UsageError, is_out_of_memory
from coinbench.group import Group, refuse_uneven
from coinbench.guard import Guard, Seen
from coinbench.log import Log
from coinbench.models import channels_last, trusting
from coinbench.rows import Rows
from coinbench.selection import Selection
from coinbench.weights import own_state, write

STATES = "states"
"""Folder of the states that stay beside the weights (`TrainConfig.keep_every`)."""
MICRO_BATCH = "micro_batch"
"""Column of train.csv, with --auto-batch: images of a batch that are computed at a time."""
Loss = Callable[[int], dict[str, Tensor]]
"""Micro-batch number -> weighted terms, whose sum is minimised: means over this process's share of the batch."""


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

    On CUDA no step waits for the device. What a step found is looked at every `log_every` steps and before anything is
    written or selected; until then a step that is not finite keeps itself and all later ones from the weights.

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
    shared, group = tuple(shared), log.group
    refuse_uneven(config.batch, group.size, "train.batch")
    state = _State(module, config, shared, selection, log)
    path = log.folder / CHECKPOINT
    start = state.load(path) if group.lead(path.is_file) else 0
    state.align()
    rows = Rows(log, start)
    channels_last(module)
    state.learn()
    try:
        with _whole_batches(module, group):
            _descend(state, loss, config, log, rows, start)
    finally:
        group.part, group.parts = 0, 1
    state.finish(log.folder)
    module.eval()


def _whole_batches(module: nn.Module, group: Group) -> AbstractContextManager[None]:
    if group.size == 1:
        return nullcontext()
    from coinbench.distributed import whole_batches

    return whole_batches(module, group)


def _descend(state: _State, loss: Loss, config: TrainConfig, log: Log, rows: Rows, start: int) -> None:
    """Do all steps from `start` on."""
    selection, group, path, total = state.selection, log.group, log.folder / CHECKPOINT, math.nan
    began = saved = time.monotonic()
    for step in range(start, config.steps):
        if group.any(log.stop.is_set()):
            log.stop.set()
            _sound(state.guard.look(), log.stage, path)
            group.lead(lambda step=step: state.save(path, step))
            log.check()
        # Ranges are looked at in the first step; the images of later ones are made in the same way.
        with trusting() if state.guard.lazy and step > start else nullcontext():
            state.step(loss, step)
        done = step + 1
        keep = group.first and config.keep_every > 0 and done % config.keep_every == 0
        judge = selection if selection is not None and selection.due(done, config.steps) else None
        row = done % config.log_every == 0 or done == config.steps
        save = group.first and time.monotonic() - saved >= config.checkpoint_seconds and done < config.steps
        if judge is not None or row or keep or save or not state.guard.lazy:
            terms = _sound(state.guard.look(), log.stage, path)
            total = math.fsum(terms.values())
            if judge is not None:
                score = state.look(done)
                log.say(f"step {done}: {judge.of} {score:.4f}")
            if row:
                seconds = time.monotonic() - began
                values = {"rate": learning_rate(config, step), "loss": total, **terms}
                rows.write(done, seconds, values | ({MICRO_BATCH: state.micro_batch} if log.auto_batch else {}))
        left = (time.monotonic() - began) / (done - start) * (config.steps - done)
        log.progress(done, config.steps, left, f"loss {total:.4g}")
        if keep:
            state.keep(log.folder / STATES, done)
        if save:
            state.save(path, done)
            saved = time.monotonic()


def _sound(seen: Seen, stage: str, path: Path) -> dict[str, float]:
    """Return the terms of the latest step.

    Raises:
        CoinbenchError: a loss or a gradient was not finite.
    """
    if seen.sound:
        return seen.terms
    listed = ", ".join(f"{name} {value:.4g}" for name, value in seen.terms.items())
    kept = f"last good checkpoint: {path}" if path.is_file() else "no checkpoint was written yet"
    raise CoinbenchError(
        f"{stage}: the loss is not finite at step {seen.step} ({listed}); {kept}; lower train.lr or set train.clip"
    )


class _State:
    """Everything that a checkpoint holds: own weights, optimiser, average, best weights so far, step."""

    def __init__(
        self,
        module: nn.Module,
        config: TrainConfig,
        shared: tuple[nn.Module, ...],
        selection: Selection | None,
        log: Log,
    ) -> None:
        self.module, self.config, self.shared, self.selection = module, config, shared, selection
        self.log, self.group = log, log.group
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("nothing to train: no parameter requires a gradient")
        self.device = self.parameters[0].device
        self.guard = Guard(self.device)
        # One kernel for all parameters; elsewhere torch's default, on whose rounding committed numbers depend.
        self.optimiser = _optimiser(self.parameters, config, fused=True if self.guard.lazy else None)
        if config.precision == "fp16" and self.device.type != "cuda":
            raise UsageError("train.precision=fp16 needs a CUDA device; use fp32 or bf16")
        self.scaler = GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.average = {k: v.clone() for k, v in self._own().items()} if config.ema else {}

    def _own(self) -> dict[str, Tensor]:
        return own_state(self.module, self.shared)

    def align(self) -> None:
        """Begin in all processes with the weights of the first: kernels on CUDA may have rounded differently."""
        with torch.no_grad():
            self.group.align([*self._own().values(), *self.average.values()])

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
        """Overwrite those of the module's own tensors that `values` names."""
        own = self._own()
        for name, value in values.items():
            own[name].copy_(value)

    def step(self, loss: Loss, step: int) -> None:
        """Do one optimiser step, unless the loss or the gradient is not finite; the guard knows what was found."""
        config = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(config, step)
        self.optimiser.zero_grad(set_to_none=True)
        terms = self._fitting(loss, step)
        if self.scaler.is_enabled():
            self._step_scaled(step, terms)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
            self.guard.see(step, terms, norm)
            if not self.guard.lazy and self.guard.stopped:
                return
            if config.clip is not None:
                nn.utils.clip_grads_with_norm_(self.parameters, config.clip, norm)
            self._advance()
        if config.ema:
            self._update_average(config.ema)

    @property
    def micro_batch(self) -> int:
        """Images of the batch that this process computes at a time."""
        return self.config.batch // self.group.size // self.group.parts

    def _fitting(self, loss: Loss, step: int) -> dict[str, Tensor]:
        """Compute the gradient of a step, with --auto-batch in parts that fit into memory."""
        while True:
            # Batch norms move them in each pass, also in one that memory was short for.
            own = self._own() if self.log.auto_batch else {}
            buffers = {name: value.clone() for name, value in own.items() if not isinstance(value, nn.Parameter)}
            try:
                return self._gradients(loss, step)
            except (RuntimeError, MemoryError) as error:
                each, parts = self.config.batch // self.group.size, self.group.parts
                smaller = next((n for n in range(2 * parts, each + 1) if each % n == 0), None)
                if not self.log.auto_batch or smaller is None or not is_out_of_memory(error):
                    raise
            # Here the error is gone, and with it what it kept in memory. The step begins anew.
            self.group.parts = smaller
            self.optimiser.zero_grad(set_to_none=True)
            self._put(buffers)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.log.say(f"out of memory at step {step}: goes on with {self.micro_batch} of {each} images at a time")

    def _gradients(self, loss: Loss, step: int) -> dict[str, Tensor]:
        """Compute the gradient of a step; return the mean of each term over micro-batches and processes, in float64."""
        config, sums = self.config, {}
        low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision, torch.float32)
        times = config.accumulate * self.group.parts
        for number in range(times):
            micro, self.group.part = divmod(number, self.group.parts)
            with torch.autocast(self.device.type, low, enabled=config.precision != "fp32"):
                terms = loss(step * config.accumulate + micro)
                total = torch.stack(list(terms.values())).sum() / times
            self.scaler.scale(total).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.detach().double() / times
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.group.average([*gradients, *sums.values()])
        return sums

    def _advance(self) -> None:
        """Do the optimiser's step; on CUDA the fused kernel leaves it out where the guard says so."""
        if self.guard.lazy:
            self.optimiser.found_inf = self.guard.stopped  # pyright: ignore[reportAttributeAccessIssue]
        self.optimiser.step()

    def _step_scaled(self, step: int, terms: dict[str, Tensor]) -> None:
        """Do the step of fp16, whose scaler looks for its scale by leaving out steps with infinite gradients."""
        self.guard.see(step, terms, None)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        # What the scaler skips of itself: a step after a loss that was not finite.
        gradients[0].add_(torch.where(self.guard.stopped > 0, math.inf, 0.0))
        self.scaler.unscale_(self.optimiser)
        if self.config.clip is not None:
            norm = nn.utils.get_total_norm(gradients)
            nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip, norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()

    @torch.no_grad()
    def _update_average(self, decay: float) -> None:
        # A step that the guard left out is none of the average either.
        lazy = (1 - decay) * (1 - self.guard.stopped) if self.guard.lazy else None
        for name, value in self._own().items():
            if not value.is_floating_point():
                self.average[name].copy_(value)
            elif lazy is None:
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].lerp_(value, lazy.to(value.dtype))

    @torch.no_grad()
    def finish(self, folder: Path) -> None:
        """Put the average, where there is one, in place of the last weights; and the best in place of those."""
        self._put(self.average)
        if self.selection is not None:
            self.selection.finish(self._own(), folder if self.group.first else None)

    def keep(self, folder: Path, step: int) -> None:
        """Write the weights that would be kept if training ended here, and drop all but the newest such files."""
        own = {name: self.average.get(name, value) for name, value in self._own().items()}
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in own.items()}
        folder.mkdir(exist_ok=True)
        write(tensors, folder / f"{step:08d}.safetensors", {"step": str(step)})
        for old in sorted(folder.glob("*.safetensors"))[: -self.config.keep]:
            old.unlink()

    def save(self, path: Path, step: int) -> None:
        """Write a checkpoint, whole or not at all."""
        tensors = self._tensors() | checkpoints.of_optimiser(self.optimiser, "optimiser")
        metadata = {"step": str(step), "train": self.config.digest(), "parts": str(self.group.parts)}
        metadata |= checkpoints.of_scaler(self.scaler)
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
            scale = checkpoints.to_scaler(metadata, self.scaler)
            if self.selection is not None:
                self.selection.load(tensors, metadata["selection"], step, self._own())
            for key, value in mine.items():
                value.copy_(tensors[key])
            checkpoints.restore(self.optimiser, states)
            self.scaler.load_state_dict(scale)
            if self.log.auto_batch:
                # Of a batch that another process could not hold either.
                self.group.parts = math.gcd(int(metadata.get("parts", "1")), self.config.batch // self.group.size)
            return step
        except DataError:
            raise
        # Besides its own errors safetensors passes on those of the system and of torch.
        except Exception as error:
            raise checkpoints.foreign(path, error) from error


def _optimiser(parameters: list[nn.Parameter], config: TrainConfig, fused: bool | None) -> torch.optim.Optimizer:
    decay = config.weight_decay
    if config.optimiser == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=decay, fused=fused)
    return torch.optim.Adam(parameters, config.lr, betas=config.betas, weight_decay=decay, fused=fused)
