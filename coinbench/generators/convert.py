"""`coinbench weights convert` and `show`: published StyleGAN2 files to safetensors with their provenance."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import mmap
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from coinbench import weights
from coinbench.errors import DataError, UsageError, is_out_of_memory, unknown
from coinbench.generators import published, published_tensorflow
from coinbench.generators.initial import PARTS, misfits
from coinbench.generators.published import Module, Network
from coinbench.generators.published_tensorflow import TensorflowNetwork
from coinbench.generators.shapes import expected
from coinbench.generators.state_dicts import read_older, read_state_dicts
from coinbench.generators.stored_tensors import OLDER, tensor_calls
from coinbench.generators.unpickle import Budget, Machine, Refused, printable
from coinbench.networks import fir

LARGEST = 2 * 1024**3
"""Bytes of a file; published ones have less than 0.4 GB."""
_REMEDY = (
    "`coinbench weights convert` reads StyleGAN2 pickles of NVIDIA's code and state dicts (docs/weights.md); "
    "get the file anew from its publisher"
)
NVIDIA = (
    "NVIDIA Source Code License: use for research or evaluation only; keep this notice and the licence's text "
    "(LICENSE.txt of the repository that published the file) with every copy"
)
_REST = 100
"""Names that are noted of what is not converted; published files have two."""
UNKNOWN = "unknown: ask whoever published the file"
_KINDS = {"G_ema": "Generator", "G": "Generator", "D": "Discriminator"}


@dataclass(frozen=True, eq=False)
class _Source:
    """What was read from a file."""

    format: str
    networks: dict[str, Network]
    rest: list[str]
    """Names of what else the file holds, which is not converted."""
    licence: str


def convert(path: Path, out: Path, only: tuple[str, ...] = ()) -> None:
    """Write the networks of a published file as safetensors, whole or not at all; nothing in the file is run.

    Args:
        path: pickle of the official PyTorch or TensorFlow code, or a state dict of torch.save.
        out: what to write.
        only: networks to convert, G_ema among them; empty: all of the file.

    Raises:
        UsageError: `out` is no name for it, or `only` names no network.
        DataError: the file is missing, damaged, hostile, or holds something else.
        CoinbenchError: `out` cannot be written.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: the output is safetensors; choose a name that ends in .safetensors")
    for name in only:
        if name not in PARTS:
            raise unknown("network", name, list(PARTS))
    if only and "G_ema" not in only:
        raise UsageError("--networks: G_ema is always needed; add it")
    try:
        if not path.is_file():
            why = "is no file" if path.exists() else "no such file"
            raise DataError(f"{path}: {why}; give the path of a file that you downloaded")
        # Unlike the method, it is silent about an output in a folder that cannot be read.
        if os.path.exists(out) and out.samefile(path):
            raise UsageError(f"{out}: would replace what is converted; choose another name")
        with path.open("rb") as file:
            sha256, source, tensors = _read(file, only or PARTS)
    except Refused as error:
        raise DataError(f"{path}: {error}; {_REMEDY}") from error
    except (OSError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise DataError(f"{path}: takes more memory to read than there is; free some, or {_REMEDY}") from error
        if not isinstance(error, OSError):
            raise
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error
    weights.write(tensors, out, _metadata(path, sha256, source))


def _read(file: BufferedReader, wanted: tuple[str, ...]) -> tuple[str, _Source, dict[str, Tensor]]:
    size = file.seek(0, 2)
    file.seek(0)
    if not size:
        raise Refused("is empty")
    if size > LARGEST:
        raise Refused(f"has {size:,} bytes, more than any file of StyleGAN2")
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    budget = Budget.of(size)
    source = _source(file, budget, wanted)
    return sha256, source, _checked(source.networks, budget)


def _source(file: BufferedReader, budget: Budget, wanted: tuple[str, ...]) -> _Source:
    file.seek(0)
    start = file.read(len(OLDER))
    if start.startswith(b"PK\x03\x04"):
        return _Source("state dict", *read_state_dicts(file, budget, wanted), UNKNOWN)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        if start == OLDER:
            return _Source("state dict before torch 1.6", *read_older(stream, budget, wanted), UNKNOWN)
        calls = {**tensor_calls(budget), **published.calls(budget), **published_tensorflow.calls()}
        return _recognise(Machine(budget, calls).run(stream), wanted, budget)


def _recognise(found: Any, wanted: tuple[str, ...], budget: Budget) -> _Source:
    """Tell apart what the PyTorch code pickles, a dictionary, and the TensorFlow code, a triple.

    Raises:
        Refused: it is neither.
    """
    if isinstance(found, dict) and isinstance(found.get("G_ema"), Module):
        rest = sorted(printable(key) for key in found if isinstance(key, str) and key not in PARTS)
        networks = _networks(found, published.recorded, wanted)
        return _Source("pickle of the PyTorch code", networks, rest, NVIDIA)
    if type(found) is tuple and len(found) == 3 and all(isinstance(part, TensorflowNetwork) for part in found):
        read = partial(published_tensorflow.recorded, budget=budget)
        networks = _networks(dict(zip(PARTS, found, strict=True)), read, wanted)
        return _Source("pickle of the TensorFlow code", networks, [], NVIDIA)
    raise Refused("holds no network G_ema as NVIDIA's StyleGAN2 code pickles it")


def _networks(
    found: Mapping[str, Any], read: Callable[[Any, str], Network], wanted: tuple[str, ...]
) -> dict[str, Network]:
    networks: dict[str, Network] = {}
    for part in PARTS:
        if part in wanted and found.get(part) is not None:
            try:
                networks[part] = read(found[part], _KINDS[part])
            except Refused as error:
                if part == "G_ema":
                    raise
                raise _without(part, str(error)) from error
    return networks


def _without(part: str, reason: str) -> Refused:
    others = ",".join(name for name in ("G_ema", "G") if name != part)
    return Refused(f"{reason}; leave {part} out with --networks {others}, or")


def _checked(networks: dict[str, Network], budget: Budget) -> dict[str, Tensor]:
    """Return the tensors of all networks, each of which fits its network by name, shape and type.

    Raises:
        Refused: names up to three that do not, or a value that makes a network useless, or they share so many values
            that the output would be much larger than the file.
    """
    if "G_ema" not in networks:
        raise Refused("holds no network G_ema")
    ours = networks["G_ema"].arguments
    tensors: dict[str, Tensor] = {}
    for part, network in networks.items():
        same = ("size", "channels", "c_dim") if part == "D" else ours.keys()
        if differing := [name for name in same if network.arguments[name] != ours[name]]:
            raise Refused(f"holds a {part} that differs from G_ema in {', '.join(differing)}")
        named = {printable(name): value for name, value in network.tensors.items()}
        if wrong := misfits(expected(network.arguments, _KINDS[part]), named):
            raise Refused(f"{part} {wrong}")
        for name, value in network.tensors.items():
            budget.copy(value.nbytes)
            if not value.isfinite().all():
                raise Refused(f"{part} holds values in {name} that are NaN or infinite")
            if name.endswith(".resample_filter") and not torch.allclose(value, fir.kernel(), rtol=0, atol=1e-6):
                raise Refused(f"{part} filters with another {name} than [1, 3, 3, 1]")
            tensors[f"{part}.{name}"] = value.clone(memory_format=torch.contiguous_format)
    return tensors


def _metadata(path: Path, sha256: str, source: _Source) -> dict[str, str]:
    networks = source.networks
    found = {
        "coinbench": importlib.metadata.version("coinbench"),
        "file": path.name.encode("utf-8", "backslashreplace").decode(),
        "sha256": sha256,
        "format": source.format,
        "source_sha256": json.dumps(sorted(frozenset().union(*(part.sources for part in networks.values())))),
        "arguments": _ordered(networks["G_ema"].arguments),
        "not_converted": json.dumps(source.rest[:_REST]),
        "licence": source.licence,
    }
    if "D" in networks:
        found["discriminator"] = _ordered(networks["D"].arguments)
    return found


def _ordered(arguments: dict[str, Any]) -> str:
    order = ("size", "channels", "z_dim", "w_dim", "c_dim", "depth", "base", "most", "group", "clamp")
    return json.dumps({name: arguments[name] for name in order if name in arguments})


def describe(path: Path) -> dict[str, Any]:
    """Return what a converted file holds: networks, arguments, provenance, licence.

    Raises:
        DataError: it is missing, damaged, or was not converted.
    """
    remedy = "make one with `coinbench weights convert FILE OUT.safetensors`"
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file, or not readable; {remedy}")
    networks: dict[str, dict[str, int]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118
                held = networks.setdefault(key.partition(".")[0], {"tensors": 0, "values": 0})
                held["tensors"] += 1
                held["values"] += math.prod(file.get_slice(key).get_shape())
    # Besides its own errors safetensors passes on those of the system and of torch.
    except Exception as error:
        raise DataError(f"{path}: not readable as safetensors ({printable(str(error))}); {remedy}") from error
    found: dict[str, Any] = {"path": str(path), "networks": networks}
    try:
        found |= {name: metadata[name] for name in ("file", "sha256", "format", "licence", "coinbench")}
        found["arguments"] = _settings(metadata["arguments"])
        found |= {name: _texts(metadata[name]) for name in ("source_sha256", "not_converted")}
        found["discriminator"] = _settings(metadata["discriminator"]) if "discriminator" in metadata else None
        if not networks.keys() <= {*PARTS}:
            raise ValueError("other networks")
    except (KeyError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: does not say what it was converted from; {remedy}") from error
    return found


def _settings(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict) or not all(value is None or type(value) in (int, float) for value in found.values()):
        raise ValueError("no settings")
    return found


def _texts(text: str) -> list[str]:
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ValueError("no list of texts")
    return found


def as_text(found: dict[str, Any]) -> str:
    """Return what `describe` found, a line each."""

    def settings(arguments: Any) -> str:
        return ", ".join(f"{name} {value}" for name, value in arguments.items()) if arguments else ""

    lines = {
        part: f"{held['values']:,} values in {held['tensors']} tensors" for part, held in found["networks"].items()
    }
    lines |= {
        "use with": _flags(found["arguments"], found["discriminator"]),
        "generator": settings(found["arguments"]),
        "discriminator": settings(found["discriminator"]),
        "from": f"{found['file']} ({found['format']})",
        "sha256": found["sha256"],
        "source sha256": ", ".join(found["source_sha256"]),
        "not converted": ", ".join(found["not_converted"]),
        "licence": found["licence"],
        "converted by": f"coinbench {found['coinbench']}",
    }
    return "\n".join([found["path"], *(f"  {name:<14} {_line(text)}" for name, text in lines.items() if text)])


def _flags(arguments: dict[str, Any], discriminator: dict[str, Any] | None) -> str:
    """Return the settings with which coinbench can use G and D; empty where it cannot, since G takes labels."""
    settings = {"resolution": "size"} | {name: name for name in ("z_dim", "w_dim", "depth", "base", "most", "clamp")}
    if arguments.get("c_dim") != 0 or not arguments.keys() >= {*settings.values()}:
        return ""
    given = {"net": "stylegan2"} | {name: json.dumps(arguments[own]) for name, own in settings.items()}
    if discriminator and discriminator.get("group"):
        given["group"] = json.dumps(discriminator["group"])
    return " ".join(f"--set problem.generator.{name}={value}" for name, value in given.items())


def _line(text: str) -> str:
    """Return text of a file, at most 500 letters and without what could steer a terminal."""
    clean = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:501])
    return clean if len(clean) <= 500 else f"{clean[:500]}..."
