"""Weights of a network as safetensors: its own tensors only, nothing pickled, checked on the way in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from coinbench.errors import DataError
from coinbench.files import write_atomically

FILE = "weights.safetensors"
"""What a finished stage calls the weights that it made."""


def own_state(module: nn.Module, shared: Iterable[nn.Module] = ()) -> dict[str, Tensor]:
    """Return the state of `module` without the tensors of the `shared` networks inside it."""
    foreign = {id(v) for network in shared for v in network.state_dict(keep_vars=True).values()}
    return {k: v for k, v in module.state_dict(keep_vars=True).items() if id(v) not in foreign}


def save(module: nn.Module, path: Path, shared: Iterable[nn.Module] = (), **metadata: str) -> str:
    """Write the own weights of `module` and return their digest."""
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in own_state(module, shared).items()}
    write(tensors, path, metadata)
    return digest(module, shared)


def write(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write named tensors, whole or not at all.

    Raises:
        CoinbenchError: the folder cannot be written or the disk is full.
    """
    with write_atomically(path) as temporary:
        try:
            save_file(tensors, temporary, metadata or None)
        except SafetensorError as error:
            # safetensors hides the system's error in one of its own.
            raise OSError(str(error)) from error


@torch.no_grad()
def load(module: nn.Module, path: Path, shared: Iterable[nn.Module] = ()) -> None:
    """Fill `module` from a file; every key and shape must fit.

    Raises:
        DataError: the file is missing, truncated, no safetensors, or belongs to another network.
    """
    # The folder, not the file: a stage without its weights would still count as finished.
    remedy = f"delete {path.parent} and run again"
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in list(file.keys())}
    # Besides its own errors safetensors passes on those of the system and of torch.
    except Exception as error:
        raise DataError(f"{path}: not readable as safetensors ({error}); {remedy}") from error
    own = own_state(module, shared)
    for kind, names in (
        ("lacks", own.keys() - tensors.keys()),
        ("has a foreign", tensors.keys() - own.keys()),
    ):
        if names:
            raise DataError(f"{path}: {kind} tensor {min(names)!r}; it belongs to another network; {remedy}")
    for name, value in own.items():
        if wrong := unfit(tensors[name], value):
            raise DataError(f"{path}: {name!r} has {wrong}; {remedy}")
    for name, value in own.items():
        value.copy_(tensors[name])


def unfit(given: Tensor, expected: Tensor) -> str:
    """Return why a tensor cannot take the place of another; empty where it can.

    >>> unfit(torch.zeros(2), torch.zeros(3))
    'shape [2], expected [3]'
    """
    if given.shape != expected.shape:
        return f"shape {list(given.shape)}, expected {list(expected.shape)}"
    return "" if given.dtype == expected.dtype else f"type {given.dtype}, expected {expected.dtype}"


def digest(module: nn.Module, shared: Iterable[nn.Module] = ()) -> str:
    """Return 16 hex digits of the own weights: names, shapes and bytes."""
    sha = hashlib.sha256()
    for name, value in sorted(own_state(module, shared).items()):
        sha.update(f"{name}{list(value.shape)}{value.dtype}".encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]
