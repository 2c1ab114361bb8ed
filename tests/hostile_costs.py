"""Files of little size that would cost much memory or time, and what the message about each must name."""

from __future__ import annotations

import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import published_files as files
import torch
from hostile_files import Call, Make, altered, parameters, rebuilt, storage, tensorflow, variable

from coinbench.generators.published_tensorflow import CLASS


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _sets(_: Path) -> bytes:
    """One list of many names, and a thousand sets of it."""
    head = b"\x80\x04cbuiltins\nset\n\x94](" + b"".join(text(f"{i}") for i in range(10_000)) + b"e\x85\x94"
    return head + b"h\x00h\x01R" * 1000 + b"."


def _streams(_: Path) -> bytes:
    """One stream with a long text in it, read a thousand times."""
    stream = files.older(storage(torch.zeros(2))).replace(b".", b"\x80\x02" + text("a" * 100_000) + b"0.", 1)
    head = b"\x80\x04ctorch.storage\n_load_from_bytes\n\x94B" + struct.pack("<I", len(stream)) + stream + b"\x85\x94"
    return head + b"h\x00h\x01R" * 1000 + b"."


def _colliding(_: Path) -> bytes:
    """Numbers of one hash as places in the memo, as only protocol 0 could write them."""
    return b"\x80\x02N" + b"".join(b"p%d\n" % (i * ((1 << 61) - 1)) for i in range(10)) + b"."


def _shared(content: dict[str, Any]) -> None:
    """Many modules with the same parameters."""
    same = OrderedDict((f"p{i}", torch.zeros(())) for i in range(50))
    empty: dict[str, Any] = {"_buffers": OrderedDict(), "_modules": OrderedDict()}
    inner = content["G_ema"].meta["state"]["_modules"]
    inner |= {f"m{i}": files.Recorded("ToRGBLayer", {"_parameters": same, **empty}) for i in range(300)}


def _array(shape: tuple[int, ...]) -> Make:
    """An array that claims a shape."""
    value = np.zeros(4, "f4")
    blank = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    claim = (1, shape, value.dtype, False, value.tobytes())
    return variable("lod", Call(blank, np.ndarray, (0,), b"b", state=claim))


def _one_storage(_: Path) -> bytes:
    """All tensors are views of one storage."""
    content: dict[str, Any] = dict(files.generator(base=1024, most=64).state_dict())
    row = torch.zeros(max(value.numel() for value in content.values()))
    for name, value in content.items():
        if not name.endswith("resample_filter"):
            content[name] = row[: value.numel()].view(value.shape)
    return files.saved(content)


def _one_array(networks: Any) -> None:
    """One array under names whose layouts are copies."""
    value = np.zeros((3, 3, 64, 64), "f4")
    parts = networks[2].state["components"]["synthesis"].state
    parts["variables"] = [(f"{side}x{side}/Conv0_up/weight", value) for side in (8, 16, 32, 64, 128, 256, 512, 1024)]


def _entries(_: Path) -> bytes:
    """A zip file whose directory has very many entries."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 9, 1, *[0] * 6) + b"a"
    directory = entry * 200_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, len(directory), 4, 0)
    return b"PK\x03\x04" + directory + end


def called(argument: bytes) -> Make:
    """Three networks, each made by a call of TensorFlow's class with an argument."""
    module, _, name = CLASS.rpartition(".")
    network = f"c{module}\n{name}\n".encode() + argument + b"\x85R"
    return lambda _: b"\x80\x02" + network * 3 + b"\x87."


def long_name(end: str = "", key: bool = True) -> Make:
    """A state dict of one name, or one value, of two million letters; one wide letter makes all of them wide."""
    word = "a" * 2_000_000 + end
    return lambda _: files.saved({word: None} if key else {"g_ema": word})


COSTS: dict[str, tuple[Make, list[str]]] = {
    "sets of one list": (_sets, ["more operations"]),
    "a stream read again": (_streams, ["unfold to more than the file holds"]),
    "a zip of many entries": (_entries, ["longer directory"]),
    "places in the memo": (_colliding, ["PUT"]),
    "numbers that collide": (
        altered(lambda c: c["training_set_kwargs"].update({(1 << 61) - 1: 1})),
        ["a key that is neither"],
    ),
    "a key of bytes": (altered(lambda c: c["training_set_kwargs"].update({b"a": 1})), ["a key that is neither"]),
    "dimensions of an array": (_array((1,) * 2000), ["shape or type is damaged"]),
    "sizes of an array": (_array((1 << 2000, 1)), ["shape or type is damaged"]),
    "sizes of a tensor": (rebuilt(0, (1 << 2000, 1), (1, 1)), ["enormous"]),
    "offset of a tensor": (rebuilt(1 << 2000, (1, 1), (1, 1)), ["enormous"]),
    "modules that share": (altered(_shared), ["more tensors than"]),
    "a module with many": (
        altered(lambda c: parameters(c).update({f"p{i}": None for i in range(2000)})),
        ["with more than a StyleGAN2 has"],
    ),
    "a long name": (altered(lambda c: parameters(c).update({"a" * 200: None})), ["long ones"]),
    "a name of a state dict": (long_name(), ["holds what is no tensor at 'aaa"]),
    "a wide name of a state dict": (long_name("\U0001f426"), ["unfold to more than the file holds"]),
    "a wide text in a state dict": (long_name("\U0001f426", key=False), ["unfold to more than the file holds"]),
    "views of one storage": (_one_storage, ["unfold to more than the file holds"]),
    "layouts of one array": (tensorflow(_one_array), ["unfold to more than the file holds"]),
    "variables": (
        tensorflow(lambda n: n[2].state.update(variables=[("a", None)] * 20_000)),
        ["more variables or settings"],
    ),
    "a long variable": (variable("a" * 10_000, np.zeros(2, "f4")), ["whose name is too long"]),
    "names that steer": (
        altered(lambda c: parameters(c).update({str(i) + "\U000e0001" * 60: torch.zeros(1) for i in range(9)})),
        ["has a foreign", "and 6 more"],
    ),
    "a class with a number": (called(b"K\x05"), ["damaged"]),
    "a class with attributes": (called(b"}"), ["damaged"]),
    "a tensor in a row of numbers": (
        altered(lambda c: _synthesis(c).update(resample_filter=(torch.ones(2), 3, 3, 1))),
        ["resample_filter of type tuple"],
    ),
}


def _synthesis(content: dict[str, Any]) -> dict[str, Any]:
    return content["G_ema"].meta["state"]["_init_kwargs"]["synthesis_kwargs"]


def older(change: bytes, by: bytes) -> Make:
    """A state dict as torch wrote it before version 1.6, with a change."""
    return lambda _: files.older(files.generator().state_dict()).replace(change, by, 1)


_COUNT = struct.pack("<q", 128)
OLDER: dict[str, tuple[Make, list[str]]] = {
    "cut": (lambda _: files.older(files.generator().state_dict())[:-4], ["claims another size"]),
    "byte order": (older(b"little_endian\x71\x02\x88", b"little_endian\x71\x02\x89"), ["another byte order"]),
    "protocol": (older(b"M\xe9\x03", b"M\xe8\x03"), ["torch did not save"]),
    "count": (older(_COUNT, struct.pack("<q", 127)), ["storage is damaged"]),
    "a module": (lambda _: files.older(torch.nn.Identity()), ["torch.nn.modules.linear.Identity"]),
    "a list": (lambda _: files.older([torch.zeros(2)]), ["no state dict"]),
}
