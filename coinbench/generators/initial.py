"""Fine-tuning: G, D and the average of G from a file that `coinbench weights convert` or a training wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from coinbench.errors import DataError
from coinbench.weights import unfit

PARTS = ("G", "D", "G_ema")
"""Prefixes of the networks in a converted file."""


def read_parts(path: Path, wanted: tuple[str, ...] = PARTS, *, values: bool = True) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each of the `wanted` networks in a converted file; without `values`, mere shapes and types.

    Raises:
        DataError: it is missing, no safetensors, or holds no G_ema.
    """
    remedy = "make one with `coinbench weights convert FILE OUT.safetensors`"
    try:
        with safe_open(path, framework="pt") as file:
            keys = [key for key in list(file.keys()) if key.partition(".")[0] in wanted]
            tensors = {key: file.get_tensor(key) if values else _outline(file, key) for key in keys}
    # Besides its own errors safetensors passes on those of the system and of torch.
    except Exception as error:
        raise DataError(f"{path}: not readable as safetensors ({error}); {remedy}") from error
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        found.setdefault(part, {})[name] = value
    if "G_ema" not in found:
        raise DataError(f"{path}: holds no network G_ema; {remedy}")
    return found


def _outline(file: Any, key: str) -> Tensor:
    part = file.get_slice(key)
    # Weights of another type do not fit anyway: no table of all types is needed to say so.
    return torch.empty(part.get_shape(), device="meta") if part.get_dtype() == "F32" else file.get_tensor(key)


@torch.no_grad()
def fill(network: nn.Module, tensors: dict[str, Tensor], path: Path, part: str) -> None:
    """Fill a network; every name and shape must fit.

    Raises:
        DataError: names the tensors that do not, at most three of a kind.
    """
    own = network.state_dict()
    _fit(own, tensors, path, part)
    for name, value in own.items():
        value.copy_(tensors[name])


def _fit(own: dict[str, Tensor], tensors: dict[str, Tensor], path: Path, part: str) -> None:
    if any(name.startswith("mapping.embed.") for name in tensors.keys() - own.keys()):
        raise DataError(f"{path}: {part} is conditional (it has mapping.embed); only generators without labels serve")
    if wrong := misfits(own, tensors):
        raise DataError(
            f"{path}: {part} {wrong}; set problem.generator's resolution, base, most, depth, z_dim and w_dim "
            "to those of the file (of a converted one `coinbench weights show FILE` lists them)"
        )


def misfits(own: dict[str, Tensor], tensors: dict[str, Tensor]) -> str:
    """Return which tensors do not take the place of a network's own, at most three of a kind; empty where all do.

    >>> misfits({"a": torch.zeros(2), "b": torch.zeros(2)}, {"a": torch.zeros(3), "c": torch.zeros(2)})
    'lacks b; has a foreign c; does not fit in a (shape [3], expected [2])'
    """
    wrong = []
    for kind, names in (("lacks", own.keys() - tensors.keys()), ("has a foreign", tensors.keys() - own.keys())):
        if names:
            wrong.append(f"{kind} {_few(sorted(names))}")
    shapes = [f"{k} ({bad})" for k, v in own.items() if k in tensors and (bad := unfit(tensors[k], v))]
    if shapes:
        wrong.append(f"does not fit in {_few(shapes)}")
    return "; ".join(wrong)


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def check_source(path: Path, networks: Mapping[str, nn.Module]) -> None:
    """Refuse a file with a network that does not fit, by the names, shapes and types in its head alone.

    Args:
        path: of the file.
        networks: what each part of it must fit, G_ema among them; parts that the file lacks are not asked for.

    Raises:
        DataError: names the tensors.
    """
    held = read_parts(path, tuple(networks), values=False)
    for part, network in networks.items():
        if part in held:
            _fit(network.state_dict(), held[part], path, part)


def recorded_group(path: Path) -> tuple[bool, int | None]:
    """Return whether a file tells the group of its D's minibatch deviation, and the group; None: the whole batch.

    Files of trainings do not: what they hold was trained with the settings of that training.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})["discriminator"])["group"]
    # Besides its own errors safetensors passes on those of the system and of torch; what is damaged tells nothing.
    except Exception:
        return False, None
    return (True, told) if told is None or type(told) is int else (False, None)


def start_from(init: Path | str, generator: nn.Module, discriminator: nn.Module | None) -> dict[str, Tensor] | None:
    """Fill G and D, and return the state of the average of G; None when training begins anew.

    A file without G starts G at its average; one without D keeps D as it is drawn. Without D given, D is not read.

    Raises:
        DataError: the file is damaged or of other networks.
    """
    if init == "scratch":
        return None
    path = Path(init)
    parts = read_parts(path)
    fill(generator, parts["G_ema"], path, "G_ema")
    average = {name: value.clone() for name, value in generator.state_dict().items()}
    if "G" in parts:
        fill(generator, parts["G"], path, "G")
    if "D" in parts and discriminator is not None:
        fill(discriminator, parts["D"], path, "D")
    return average
