"""What all configuration is built on: frozen, typed, no unknown keys, a digest; and the settings of a training."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


def absolute(path: Path) -> Path:
    """Return a path from the root: a worker may run in another folder than the command that was given.

    Raises:
        ValueError: it begins with ~NAME and nobody has that name.
    """
    try:
        return Path(os.path.abspath(path.expanduser()))
    except RuntimeError as error:
        raise ValueError(f"no such user ({error})") from error


class Config(BaseModel):
    """Base of all configuration: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def key(self) -> dict[str, Any]:
        """Return the values as JSON, without those that change no number."""
        return _without(self.model_dump(mode="json"), _NO_NUMBER, _AS_BEFORE)

    def weights_key(self) -> dict[str, Any]:
        """Return what of `key` determines trained weights: all, unless some settings act on a trained network alone."""
        return self.key()

    def digest(self) -> str:
        """Return 16 hex digits that identify `key`."""
        return digest(self.key())


_NO_NUMBER = frozenset(
    {
        *("log_every", "checkpoint_seconds", "keep_every", "keep", "fast"),
        *("workers", "root", "download", "max_bad", "title"),
    }
)
"""How often something is written, how data are called, and where they lie: their fingerprint says what they are."""
_AS_BEFORE: dict[str, Any] = {"tf32": None}
"""Settings that came later, with what was done before: at it they are left out, so that digests stay."""


def _without(value: Any, names: frozenset[str], silent: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if key not in names and (key, part) not in silent.items()}
        return {key: _without(part, names, silent) for key, part in kept.items()}
    return value


def digest(*values: Any) -> str:
    """Return 16 hex digits that identify JSON values, whatever the order of keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class TrainConfig(Config):
    """One training: how long, how fast, how precise."""

    steps: int = Field(gt=0)
    """Optimiser steps."""
    batch: int = Field(default=16, gt=0)
    """Training images in a step."""
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate (paper: 1e-4 for all sub-networks)."""
    optimiser: Literal["adam", "sgd"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD's momentum."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled from the gradient for neither optimiser (plain L2), as in the papers."""
    schedule: Literal["constant", "linear", "cosine", "step", "staircase"] = "constant"
    """linear and cosine fall to 0 after `decay_from`; step multiplies by 0.1 at each of `milestones`; staircase by
    `decay` after every `decay_every` steps from `decay_from` on."""
    decay_from: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps before the decay begins."""
    milestones: tuple[float, ...] = ()
    """Shares of the steps at which the step schedule divides the rate by 10."""
    decay: float = Field(default=0.8, gt=0, le=1)
    """What the staircase multiplies the rate with (public VisCoIN code: 0.8)."""
    decay_every: int = Field(default=1000, gt=0)
    """Steps of the staircase at one rate (public VisCoIN code: 1000)."""
    warmup: int = Field(default=0, ge=0)
    """Steps of linear warm-up of the rate."""
    accumulate: int = Field(default=1, gt=0)
    """Batches whose mean gradient makes one step."""
    clip: float | None = Field(default=None, gt=0)
    """Largest gradient norm."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then what is kept."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast type of the forward pass; fp16 scales the loss and needs CUDA."""
    tf32: bool | None = None
    """On CUDA, round the factors of float32 products to 10 bits of mantissa, for seven times the peak; default: torch's
    own, in convolutions only."""
    fast: Literal["auto", "off", "fold", "graph", "compile", "full"] = "auto"
    """How f, G and p are run while a method is trained, to the same numbers but for the order of sums. fold: batch norm
    of f in its convolutions; graph: that, and the step as a CUDA graph; compile: fold, and G and p by torch.compile;
    full: all of it. auto: off, until the others have been measured on a GPU (docs/speed.md)."""
    log_every: int = Field(default=25, gt=0)
    """Steps between rows of train.csv."""
    checkpoint_seconds: float = Field(default=30.0, ge=0)
    """Time between checkpoints; 0 writes one after every step."""
    keep_every: int = Field(default=0, ge=0)
    """Steps between states of the network that stay beside its weights, as states/STEP.safetensors; 0: none do."""
    keep: int = Field(default=5, gt=0)
    """So many of them stay, the newest."""
