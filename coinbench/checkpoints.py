"""Checkpoints of unfinished trainings: tensors and what goes with them, checked before anything is overwritten."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from coinbench.errors import DataError
from coinbench.weights import unfit, write

Tensors = dict[str, Tensor]


def save(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a checkpoint, whole or not at all."""
    # An average and what it averages never share memory, yet safetensors wants each tensor contiguous.
    write({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, path, metadata)


def read(path: Path, digest: str) -> tuple[Tensors, dict[str, str]]:
    """Return tensors and metadata of a checkpoint.

    Raises:
        DataError: it belongs to another training configuration.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in list(file.keys())}
    if metadata["train"] != digest:
        raise DataError(f"{path}: belongs to another training configuration; delete it to start anew")
    return tensors, metadata


def foreign(path: Path, error: Exception) -> DataError:
    """Return the line for a checkpoint that cannot be continued."""
    return DataError(f"{path}: not a checkpoint of this network ({error}); delete it to start anew")


def check(mine: Mapping[str, Tensor], tensors: Tensors) -> None:
    """Refuse tensors that do not fit.

    Raises:
        ValueError: names the first.
        KeyError: one is missing.
    """
    for key, value in mine.items():
        if wrong := unfit(tensors[key], value):
            raise ValueError(f"{key} has {wrong}")


def count(metadata: dict[str, str], steps: int) -> int:
    """Return the step to do next.

    Raises:
        ValueError: it is none of this training.
    """
    step = int(metadata["step"])
    if not 0 <= step <= steps:
        raise ValueError(f"step {step} of {steps}")
    return step


def of_optimiser(optimiser: torch.optim.Optimizer, name: str) -> Tensors:
    """Return the state of an optimiser as tensors `name.parameter.entry`."""
    states = optimiser.state_dict()["state"]
    return {f"{name}.{n}.{k}": v for n, entries in states.items() for k, v in entries.items() if v is not None}


def to_optimiser(tensors: Tensors, name: str, parameters: Sequence[nn.Parameter], sgd: bool) -> dict[int, Tensors]:
    """Return the state of an optimiser; refuse one that its next step would trip over, or take by broadcasting.

    Raises:
        ValueError: says what does not fit.
    """
    found: dict[int, Tensors] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == name:
            number, _, entry = rest.partition(".")
            found.setdefault(int(number), {})[entry] = value
    expected = {"momentum_buffer"} if sgd else {"step", "exp_avg", "exp_avg_sq"}
    for number, state in found.items():
        if not 0 <= number < len(parameters) or state.keys() != expected:
            raise ValueError(f"{name}.{number} holds {', '.join(sorted(state))}")
        for entry, value in state.items():
            like = torch.zeros(()) if entry == "step" else parameters[number]
            if wrong := unfit(value, like):
                raise ValueError(f"{name}.{number}.{entry} has {wrong}")
            if not value.isfinite().all() or (entry in ("step", "exp_avg_sq") and (value < 0).any()):
                raise ValueError(f"{name}.{number}.{entry} has values that no step leaves")
    return found


def restore(optimiser: torch.optim.Optimizer, states: dict[int, Tensors]) -> None:
    """Give an optimiser a state; rates and betas stay its own."""
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": states, "param_groups": groups})
    for parameter, state in optimiser.state.items():
        for name, value in state.items():
            # Files hold rows in order; a step over all parameters at once wants each state laid out like its own.
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def of_scaler(scaler: GradScaler) -> dict[str, str]:
    """Return the scale of fp16's losses and the steps since it last changed; nothing of a scaler that does nothing."""
    state = scaler.state_dict()
    return {"scale": repr(state["scale"]), "growth": str(state["_growth_tracker"])} if state else {}


def to_scaler(metadata: dict[str, str], scaler: GradScaler) -> dict[str, Any]:
    """Return the state of a scaler for its `load_state_dict`; factors and interval stay its own.

    Raises:
        ValueError: it is none that a step leaves.
        KeyError: it is missing.
    """
    state = scaler.state_dict()
    if not state:
        return state
    scale, growth = float(metadata["scale"]), int(metadata["growth"])
    if not 0 < scale < math.inf or not 0 <= growth < state["growth_interval"]:
        raise ValueError(f"scale {scale}, grown {growth} steps ago")
    return state | {"scale": scale, "_growth_tracker": growth}
