"""Files that a converter of weights must refuse, and what its message must name."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import published_files as files
import torch
from torch import Tensor

Make = Callable[[Path], bytes]
"""The content of a file; whatever runs in it makes a folder at the path given."""


class Call:
    """Is pickled as a call of anything."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


class Outside(pickle.Pickler):
    """Writes a persistent id in place of sets."""

    def persistent_id(self, obj: Any) -> Any:
        return ("storage", "anything") if isinstance(obj, set) else None


def alone(build: Callable[[Path], Any], protocol: int = 4) -> Make:
    """A file that is nothing but one object."""
    return lambda canary: files.pickled(build(canary), protocol)


def planted(build: Callable[[Path], Any], protocol: int = 4) -> Make:
    """An official file with an object in place of one of its tensors."""

    def make(canary: Path) -> bytes:
        content = small()
        parameters(content)["const"] = build(canary)
        return files.pickled(content, protocol)

    return make


def small() -> dict[str, Any]:
    """The content of an official file with G_ema alone."""
    return files.official(G_ema=files.record(files.generator(3), files.ada_kwargs()))


def altered(change: Callable[[dict[str, Any]], Any], content_of: Callable[[], dict[str, Any]] = small) -> Make:
    """An official file after a change of its content."""

    def make(_: Path) -> bytes:
        content = content_of()
        change(content)
        return files.pickled(content)

    return make


def _part(content: dict[str, Any], *names: str) -> Any:
    """The record of a module within G_ema."""
    found = content["G_ema"]
    for name in names:
        found = found.meta["state"]["_modules"][name]
    return found


def parameters(content: dict[str, Any]) -> dict[str, Any]:
    """Those of a block of G_ema."""
    return _part(content, "synthesis", "b4").meta["state"]["_parameters"]


def _kwargs(content: dict[str, Any]) -> dict[Any, Any]:
    return content["G_ema"].meta["state"]["_init_kwargs"]


def storage(value: Tensor) -> Any:
    """That of a tensor, as the official files hold it."""
    return torch.storage.TypedStorage(wrap_storage=value.untyped_storage(), dtype=value.dtype, _internal=True)


def rebuilt(offset: Any, size: Any, stride: Any, count: int = 128) -> Make:
    """A tensor that claims this place in a storage of 128 values."""
    from torch import _utils

    arguments = (storage(torch.zeros(count)), offset, size, stride, False, OrderedDict())
    return planted(lambda _: Call(_utils._rebuild_tensor_v2, *arguments))


def blob(build: Callable[[Path], bytes]) -> Make:
    """Values of a tensor that are a stream of their own."""
    return planted(lambda canary: Call(torch.storage._load_from_bytes, build(canary)))


def bomb(canary: Path) -> Call:
    return Call(os.mkdir, str(canary))


def _claims_more(_: Path) -> bytes:
    return files.older(storage(torch.zeros(4))).replace(b"K\x04N", b"K\x05N")


def _compressed(_: Path) -> bytes:
    data = files.saved(files.generator().state_dict())
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return stream.getvalue()


def _other_zip(_: Path) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("images/0.png", b"no weights")
    return stream.getvalue()


def _script(_: Path) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)
    return stream.getvalue()


def state(change: Callable[[dict[str, Any]], Any]) -> Make:
    """A plain state dict after a change."""

    def make(_: Path) -> bytes:
        content: dict[str, Any] = dict(files.generator().state_dict())
        change(content)
        return files.saved(content)

    return make


def tensorflow(change: Callable[[Any], Any], version: int = 5, protocol: int = 3) -> Make:
    """A TensorFlow file after a change of its three networks."""

    def make(_: Path) -> bytes:
        content = files.tensorflow((files.generator(1), files.generator(3)), files.discriminator(2), version)
        return files.pickled(change(content) or content, protocol)

    return make


def variable(name: str, value: Any) -> Make:
    return tensorflow(lambda networks: networks[2].state["variables"].append((name, value)))


def _persistent(_: Path) -> bytes:
    stream = io.BytesIO()
    Outside(stream, 4).dump({"G_ema": {1}})
    return stream.getvalue()


def _copies(_: Path) -> bytes:
    """Ten thousand tensors of the same megabyte."""
    again = b"h\x00h\x01\x85R"
    stream = files.older(storage(torch.zeros(250_000)))
    head = b"\x80\x04ctorch.storage\n_load_from_bytes\n\x94B" + struct.pack("<I", len(stream)) + stream + b"\x94"
    return head + again * 10_000 + b"."


def _own_end(content: dict[str, Any]) -> None:
    modules = content["G_ema"].meta["state"]["_modules"]
    for i in range(12):
        nested = files.Recorded("SynthesisNetwork", {"_parameters": {}, "_buffers": {}, "_modules": dict(modules)})
        modules = {f"m{i}": nested}
    content["G_ema"].meta["state"]["_modules"].update(modules)


CALLS: dict[str, tuple[Make, list[str]]] = {
    "a function": (alone(bomb), ["'posix.mkdir'", "nothing of it was run"]),
    "a function, protocol 2": (alone(bomb, 2), ["'posix.mkdir'"]),
    "a command": (planted(lambda at: Call(os.system, f"mkdir {at}")), ["'posix.system'"]),
    "eval": (planted(lambda at: Call(eval, f"__import__('os').mkdir({str(at)!r})")), ["'builtins.eval'"]),
    "eval, protocol 2": (
        planted(lambda at: Call(eval, f"__import__('os').mkdir({str(at)!r})"), 2),
        ["__builtin__.eval"],
    ),
    "getattr": (
        planted(lambda _: Call(getattr, files.Recorded("Generator", {}), "__reduce__")),
        ["'builtins.getattr'"],
    ),
    "a method of an allowed class": (
        lambda _: b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.",
        ["fromkeys"],
    ),
    "a module": (alone(lambda _: torch.nn.Identity()), ["'torch.nn.modules.linear.Identity'"]),
    "a name only": (lambda _: b"\x80\x04cos\nsystem\n.", ["'os.system'"]),
    "old instances": (lambda at: b"\x80\x02(S'mkdir " + str(at).encode() + b"'\nios\nsystem\n.", ["INST"]),
    "an extension": (lambda _: b"\x80\x04\x82\x01.", ["EXT1"]),
    "a class of an array": (planted(lambda _: Call(np.ndarray, (1 << 40,))), ["calls numpy.ndarray"]),
    "in a tensor": (blob(lambda at: pickle.dumps(bomb(at))), ["'posix.mkdir'"]),
    "in a tensor that torch wrote": (blob(lambda at: files.older(bomb(at))), ["'posix.mkdir'"]),
    "a zip in a tensor": (blob(lambda _: files.saved(torch.zeros(2))), ["no pickle"]),
    "in a state dict": (lambda at: files.saved({"g_ema": bomb(at)}), ["'posix.mkdir'"]),
    "in what is not converted": (altered(lambda c: c.update(augment_pipe=Call(os.getcwd))), ["'posix.getcwd'"]),
}
TENSORS: dict[str, tuple[Make, list[str]]] = {
    "size": (rebuilt(0, (8, 4, 5), (20, 5, 1)), ["beyond its 128 stored values"]),
    "offset": (rebuilt(1, (8, 4, 4), (16, 4, 1)), ["beyond its 128"]),
    "stride": (rebuilt(0, (8, 4, 4), (17, 4, 1)), ["beyond its 128"]),
    "large": (rebuilt(0, (1 << 39, 4, 4), (16, 4, 1)), ["beyond its 128"]),
    "enormous": (rebuilt(0, (1 << 40, 4, 4), (16, 4, 1)), ["enormous"]),
    "repeated": (rebuilt(0, (1 << 39, 4, 4), (0, 4, 1)), ["uses a stored value twice"]),
    "overlapping": (rebuilt(0, (2, 2), (1, 1), 4), ["uses a stored value twice"]),
    "rows that overlap": (rebuilt(0, (8, 4, 4), (12, 3, 1)), ["uses a stored value twice"]),
    "negative stride": (rebuilt(127, (8, 4, 4), (-16, -4, -1)), ["negative"]),
    "negative size": (rebuilt(0, (-8, 4, 4), (16, 4, 1)), ["negative"]),
    "negative offset": (rebuilt(-1, (8, 4, 4), (16, 4, 1)), ["negative"]),
    "fraction": (rebuilt(0, (8.0, 4, 4), (16, 4, 1)), ["no whole number"]),
    "a long step": (rebuilt(0, (8, 4, 5, 1), (20, 5, 1, 1 << 39)), ["beyond its 128"]),
    "empty": (rebuilt(0, (0, 1 << 39), (1, 1)), ["is empty"]),
    "dimensions": (rebuilt(0, (8, 4, 4), (16, 4)), ["shape is damaged"]),
    "storage that claims more": (blob(_claims_more), ["storage is damaged"]),
    "storage cut": (blob(lambda _: files.older(storage(torch.zeros(4)))[:-4]), ["claims another size"]),
    "no storage": (blob(lambda _: files.older([1])), ["not one storage"]),
    "two storages": (
        blob(lambda _: files.older([storage(torch.zeros(4)), storage(torch.ones(4))])),
        ["not one storage"],
    ),
    "copies": (_copies, ["unfold to more than the file holds"]),
    "objects": (variable("lod", np.array([{}], dtype=object)), ["'O8'", "plain numbers"]),
    "fields": (variable("lod", np.zeros(2, "i4,f4")), ["'V8'"]),
    "big-endian": (variable("lod", np.zeros(2, ">f4")), ["another byte order"]),
    "text": (variable("lod", np.array(["a"])), ["'U1'"]),
    "not finite": (altered(lambda c: parameters(c).update(const=torch.full((8, 4, 4), torch.nan))), ["NaN"]),
    "persistent id": (_persistent, ["outside the file"]),
}
STREAMS: dict[str, tuple[Make, list[str]]] = {
    "marks": (lambda _: b"\x80\x04" + b"(" * 100_000 + b".", ["nested deeper"]),
    "stack": (lambda _: b"\x80\x04" + b"]" * 100_000 + b".", ["nested deeper"]),
    "lists in lists": (lambda _: b"\x80\x04" + b"]" * 20_000 + b"a" * 19_999 + b".", ["no network G_ema"]),
    "tuples in tuples": (lambda _: b"\x80\x04N" + b"\x85" * 20_000 + b".", ["no network G_ema"]),
    "a deep key": (lambda _: b"\x80\x04}N" + b"\x85" * 20_000 + b"Ns.", ["a key that is neither"]),
    "memo": (lambda _: b"\x80\x04N" + b"\x94" * 250_000 + b".", ["remembers more"]),
    "operations": (lambda _: b"\x80\x04" * 600_000 + b"N.", ["more operations"]),
    "a length beyond the file": (lambda _: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.", ["cut short"]),
    "nothing on the stack": (lambda _: b"\x80\x04.", ["damaged"]),
    "nothing in the memo": (lambda _: b"\x80\x04h\x05.", ["damaged"]),
    "below a mark": (lambda _: b"\x80\x04N(0.", ["damaged"]),
    "unknown operation": (lambda _: b"\x80\x04\xff.", ["damaged"]),
    "a buffer outside": (lambda _: b"\x80\x05\x97.", ["NEXT_BUFFER"]),
    "protocol 0": (lambda _: pickle.dumps({"G_ema": 1}, 0), ["no pickle of protocol 2"]),
    "empty": (lambda _: b"", ["is empty"]),
    "text": (lambda _: b"<!DOCTYPE html>\n<p>Quota exceeded</p>\n", ["no pickle"]),
    "zeros": (lambda _: bytes(1000), ["no pickle"]),
    "a zip of images": (_other_zip, ["without a state dict"]),
    "a compressed zip": (_compressed, ["compressed"]),
    "a damaged zip": (lambda _: b"PK\x03\x04" + bytes(100), ["damaged zip"]),
    "TorchScript": (_script, ["TorchScript"]),
}
NETWORKS: dict[str, tuple[Make, list[str]]] = {
    "another version": (altered(lambda c: c["G_ema"].meta.update(version=5)), ["version 5", "version 6 is read"]),
    "a long version": (altered(lambda c: c["G_ema"].meta.update(version=1 << 20_000)), ["version of type int"]),
    "a tensor as version": (
        altered(lambda c: c["G_ema"].meta.update(version=torch.ones(2))),
        ["version of type Tensor"],
    ),
    "a number as name": (altered(lambda c: _kwargs(c).__setitem__(5, 1)), ["unknown setting 5"]),
    "a long number as name": (altered(lambda c: _kwargs(c).__setitem__(1 << 20_000, 1)), ["a key that is neither"]),
    "a name that steers": (altered(lambda c: _kwargs(c).update({"\x1b[2J\ud800": 1})), [r"'\x1b[2J\ud800'"]),
    "no class": (altered(lambda c: c["G_ema"].meta.update(type="function")), ["other than a module"]),
    "another module": (
        lambda _: files.pickled(small()).replace(b"torch_utils.persistence", b"torch_utils_persistence"),
        ["'torch_utils_persistence._reconstruct_persistent_obj'"],
    ),
    "another function": (
        lambda _: files.pickled(small()).replace(b"_reconstruct_persistent_obj", b"_reconstruct_persistent_obk"),
        ["_reconstruct_persistent_obk"],
    ),
    "another class": (
        altered(lambda c: _part(c, "mapping").meta.update(class_name="Mapper")),
        ["unknown class 'Mapper'"],
    ),
    "D as G": (altered(lambda c: c.update(G=c["D"]), files.everything), ["'Discriminator' where a Generator belongs"]),
    "no G_ema": (altered(lambda c: c.pop("G_ema")), ["no network G_ema"]),
    "G_ema is data": (altered(lambda c: c.update(G_ema={"a": 1})), ["no network G_ema"]),
    "G of another size": (
        altered(lambda c: c.update(G=files.record(files.generator(depth=3), files.ada_kwargs(depth=3)))),
        ["G that differs from G_ema in depth"],
    ),
    "a missing tensor": (altered(lambda c: parameters(c).pop("const")), ["lacks synthesis.b4.const"]),
    "an extra tensor": (altered(lambda c: parameters(c).update(more=torch.zeros(2))), ["foreign synthesis.b4.more"]),
    "a wrong shape": (
        altered(lambda c: parameters(c).update(const=torch.zeros(8, 4, 3))),
        ["synthesis.b4.const (shape [8, 4, 3], expected [8, 4, 4])"],
    ),
    "a wrong type": (altered(lambda c: parameters(c).update(const=torch.zeros(8, 4, 4).half())), ["torch.float16"]),
    "no tensor": (altered(lambda c: parameters(c).update(const=[1.0])), ["no tensor at 'synthesis.b4.const'"]),
    "other arguments": (altered(lambda c: _kwargs(c).update(w_dim=9)), ["does not fit", "expected [9]"]),
    "no arguments": (altered(lambda c: c["G_ema"].meta["state"].pop("_init_kwargs")), ["arguments of its Generator"]),
    "arguments without names": (altered(lambda c: c["G_ema"].meta["state"].update(_init_args=(512,))), ["arguments"]),
    "an unknown argument": (altered(lambda c: _kwargs(c).update(magnitude=2)), ["unknown setting 'magnitude'"]),
    "a size that is none": (altered(lambda c: _kwargs(c).update(img_resolution=48)), ["is of another size", "48"]),
    "a size beyond all": (altered(lambda c: _kwargs(c).update(z_dim=1 << 40)), ["z_dim 1099511627776"]),
    "a tensor as argument": (
        altered(lambda c: _kwargs(c)["synthesis_kwargs"].update(architecture=torch.ones(2))),
        ["architecture of type Tensor"],
    ),
    "architecture": (altered(lambda c: _kwargs(c)["synthesis_kwargs"].update(architecture="orig")), ["'orig'"]),
    "filter": (
        altered(lambda c: _kwargs(c)["synthesis_kwargs"].update(resample_filter=[1, 2, 1])),
        ["resample_filter"],
    ),
    "stored filter": (
        altered(
            lambda c: _part(c, "synthesis", "b8").meta["state"]["_buffers"].update(resample_filter=torch.ones(4, 4))
        ),
        ["filters with another"],
    ),
    "clamps": (
        altered(lambda c: _part(c, "synthesis", "b8", "conv0").meta["state"].update(conv_clamp=[])),
        ["conv_clamp"],
    ),
    "modules in modules": (altered(_own_end), ["nests more modules"]),
    "state dict: missing": (state(lambda s: s.pop("mapping.w_avg")), ["lacks 'mapping.w_avg'"]),
    "state dict: extra": (state(lambda s: s.update(more=torch.zeros(1))), ["foreign more"]),
    "state dict: shape": (state(lambda s: s.update({"mapping.w_avg": torch.zeros(4)})), ["does not fit in mapping"]),
    "state dict: value": (state(lambda s: s.update(step=3)), ["no tensor at 'step'"]),
    "state dict: other names": (state(lambda s: [s.pop(k) for k in list(s) if "conv" in k]), ["official names"]),
    "a list of tensors": (lambda _: files.saved([torch.zeros(2)]), ["no state dict"]),
    "TensorFlow before StyleGAN2": (tensorflow(lambda _: None, version=3), ["version 3", "StyleGAN1"]),
    "TensorFlow: a tensor as version": (
        tensorflow(lambda n: n[0].state.update(version=np.ones(2))),
        ["version of type Array"],
    ),
    "TensorFlow: one network": (tensorflow(lambda n: n[2]), ["no network G_ema"]),
    "TensorFlow: missing": (tensorflow(lambda n: n[2].state["variables"].clear()), ["lacks 'mapping.w_avg'"]),
    "TensorFlow: extra": (variable("lod", np.float32(0)), ["variable 'lod'"]),
    "TensorFlow: no array": (variable("dlatent_avg", "x"), ["no tensor at 'dlatent_avg'"]),
    "TensorFlow: shape": (variable("dlatent_avg", np.zeros((2, 5), "f4")), ["mapping.w_avg"]),
    "TensorFlow: architecture": (
        tensorflow(lambda n: n[2].state["static_kwargs"].update(architecture="resnet")),
        ["architecture 'resnet'"],
    ),
    "TensorFlow: part": (tensorflow(lambda n: n[2].state["components"].update(other=n[1])), ["unknown part 'other'"]),
}
