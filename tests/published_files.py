"""Files in the layouts that StyleGAN2 was published in, written from facts about them and our own networks."""

from __future__ import annotations

import io
import math
import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coinbench.networks.stylegan2 import Mapping, StyleGAN2, Synthesis, SynthesisBlock, SynthesisLayer, ToRGB
from coinbench.networks.stylegan2_discriminator import Discriminator, DiscriminatorBlock, Epilogue
from coinbench.networks.stylegan2_layers import Convolution, FullyConnected

N = TypeVar("N", bound=nn.Module)
SIZE = 16
GENERATOR = {"size": SIZE, "channels": 3, "z_dim": 6, "w_dim": 5, "c_dim": 0, "depth": 2, "base": 64, "most": 8}
DISCRIMINATOR = {"size": SIZE, "channels": 3, "c_dim": 0, "base": 64, "most": 8}
SOURCE = "raise SystemExit('the source of a file was run')"
CLASSES = {
    StyleGAN2: "Generator",
    Mapping: "MappingNetwork",
    Synthesis: "SynthesisNetwork",
    SynthesisBlock: "SynthesisBlock",
    SynthesisLayer: "SynthesisLayer",
    ToRGB: "ToRGBLayer",
    FullyConnected: "FullyConnectedLayer",
    Discriminator: "Discriminator",
    DiscriminatorBlock: "DiscriminatorBlock",
    Epilogue: "DiscriminatorEpilogue",
    Convolution: "Conv2dLayer",
}


def generator(seed: int = 0, **changes: Any) -> StyleGAN2:
    """A tiny G with nothing at its first value."""
    return _drawn(StyleGAN2(**{**GENERATOR, **changes}), seed)


def discriminator(seed: int = 0, **changes: Any) -> Discriminator:
    """A tiny D with nothing at its first value."""
    return _drawn(Discriminator(**{**DISCRIMINATOR, **changes}), seed)


def _drawn(network: N, seed: int) -> N:
    dice = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if not name.endswith("resample_filter"):
            value.copy_(torch.randn(value.shape, generator=dice))
    return network


class EasyDict(dict):
    """Stands for the official class of this name."""


class Network:
    """Stands for TensorFlow's class of this name."""

    def __init__(self, **state: Any) -> None:
        self.state = state

    def __getstate__(self) -> dict[str, Any]:
        return self.state


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    """Stands for the official function, which runs the source."""


class Recorded:
    """A module as the official code pickles it: a call with class, source and state."""

    def __init__(self, class_name: str, state: dict[str, Any], version: int = 6) -> None:
        self.meta = {
            "type": "class",
            "version": version,
            "module_src": SOURCE,
            "class_name": class_name,
            "state": state,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_persistent_obj, (self.meta,), None


def record(module: nn.Module, kwargs: dict[str, Any] | None = None, frozen: int = 0) -> Recorded:
    """A module with its attributes; `frozen` layers of D keep their weights as buffers."""
    left = [frozen]
    return _record(module, kwargs, left)


def _record(module: nn.Module, kwargs: dict[str, Any] | None, left: list[int]) -> Recorded:
    parameters = OrderedDict(module._parameters)
    buffers = OrderedDict((k, v) for k, v in module._buffers.items() if k != "squared")
    if isinstance(module, Convolution) and left[0] > 0:
        left[0] -= 1
        buffers.update((k, v.detach()) for k, v in parameters.items() if v is not None)
        parameters.clear()
    passing: set[str] = set()
    if isinstance(module, SynthesisLayer):
        buffers["scratch"], passing = torch.ones(2), {"scratch"}
    parts = OrderedDict((k, _record(v, None, left)) for k, v in module._modules.items() if v is not None)
    state: dict[str, Any] = {
        "training": False,
        "_parameters": parameters,
        "_buffers": buffers,
        "_non_persistent_buffers_set": passing,
        "_backward_hooks": OrderedDict(),
        "_modules": parts,
        "_init_args": (),
        "_init_kwargs": kwargs or {},
        "weight_gain": np.float64(1 / math.sqrt(3)),
    }
    if isinstance(module, (SynthesisLayer, ToRGB, Convolution)):
        state["conv_clamp"] = module.clamp
    if isinstance(module, Epilogue):
        empty = {kind: OrderedDict() for kind in ("_parameters", "_buffers", "_modules")}
        parts["mbstd"] = Recorded("MinibatchStdLayer", {**empty, "group_size": module.group, "num_channels": 1})
    return Recorded(CLASSES[type(module)], state)


def ada_kwargs(**changes: Any) -> dict[str, Any]:
    """Arguments of G as StyleGAN2-ADA groups them."""
    a = {**GENERATOR, **changes}
    return {
        "z_dim": a["z_dim"],
        "w_dim": a["w_dim"],
        "c_dim": a["c_dim"],
        "img_resolution": a["size"],
        "img_channels": a["channels"],
        "mapping_kwargs": EasyDict(num_layers=a["depth"]),
        "synthesis_kwargs": EasyDict(channel_base=a["base"], channel_max=a["most"], num_fp16_res=4, conv_clamp=256),
    }


def stylegan3_kwargs(**changes: Any) -> dict[str, Any]:
    """The same as StyleGAN3's repository flattens them."""
    given = ada_kwargs(**changes)
    return {**given.pop("synthesis_kwargs"), **given, "fused_modconv_default": "inference_only"}


def d_kwargs(**changes: Any) -> dict[str, Any]:
    """Arguments of D."""
    a = {**DISCRIMINATOR, **changes}
    return {
        "c_dim": a["c_dim"],
        "img_resolution": a["size"],
        "img_channels": a["channels"],
        "channel_base": a["base"],
        "channel_max": a["most"],
        "num_fp16_res": 4,
        "conv_clamp": 256,
        "block_kwargs": EasyDict(freeze_layers=0),
        "mapping_kwargs": EasyDict(),
        "epilogue_kwargs": EasyDict(mbstd_group_size=4),
    }


def official(**networks: Any) -> dict[str, Any]:
    """The content of an official PyTorch file."""
    empty = {kind: OrderedDict() for kind in ("_parameters", "_buffers", "_modules")}
    pipe = Recorded("AugmentPipe", {**empty, "_buffers": OrderedDict(p=torch.zeros(()))})
    data = EasyDict(class_name="training.dataset.ImageFolderDataset", path="cub.zip", use_labels=False, max_size=None)
    return {"training_set_kwargs": data, **networks, "augment_pipe": pipe}


def everything() -> dict[str, Any]:
    """G, D and G_ema, tiny."""
    return official(
        G=record(generator(1), ada_kwargs()),
        D=record(discriminator(2), d_kwargs()),
        G_ema=record(generator(3), ada_kwargs()),
    )


@contextmanager
def official_names() -> Iterator[None]:
    """Let the stand-ins have the official names while they are pickled, and no longer."""
    places = {
        _reconstruct_persistent_obj: "torch_utils.persistence",
        EasyDict: "dnnlib.util",
        Network: "dnnlib.tflib.network",
    }
    with pytest.MonkeyPatch.context() as patch:
        for thing, name in places.items():
            for i in range(name.count(".") + 1):
                part = ".".join(name.split(".")[: i + 1])
                patch.setitem(sys.modules, part, sys.modules.get(part) or ModuleType(part))
            patch.setattr(sys.modules[name], thing.__name__, thing, raising=False)
            patch.setattr(thing, "__module__", name)
        yield


def pickled(content: Any, protocol: int = 4) -> bytes:
    """The bytes of a file under the official names."""
    with official_names():
        return pickle.dumps(content, protocol)


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    """Write a pickle under the official names."""
    path.write_bytes(pickled(content, protocol))
    return path


def saved(content: Any) -> bytes:
    """What torch.save writes."""
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def older(content: Any) -> bytes:
    """What torch.save wrote before version 1.6."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


# TensorFlow: height, width, in, out; matrices in, out; doubling filters mirrored; biases of styles less 1.


def _matrix(value: Tensor) -> Tensor:
    return value.t()


def _filter(value: Tensor) -> Tensor:
    return value.permute(2, 3, 1, 0)


def _mirrored(value: Tensor) -> Tensor:
    return value.permute(2, 3, 1, 0).flip(0, 1)


def tensorflow(generators: tuple[StyleGAN2, StyleGAN2], d: Discriminator, version: int = 5) -> tuple[Network, ...]:
    """The content of a TensorFlow file: G, D, Gs."""
    first, average = (_tensorflow_generator(one, version) for one in generators)
    state = d.state_dict()
    own: dict[str, Tensor] = {}
    for side in d.sides:
        names = {"conv0": "Conv0", "conv1": "Conv1_down", "skip": "Skip"} | (
            {"fromrgb": "FromRGB"} if side == SIZE else {}
        )
        for ours, theirs in names.items():
            own[f"{side}x{side}/{theirs}/weight"] = _filter(state[f"b{side}.{ours}.weight"])
            if ours != "skip":
                own[f"{side}x{side}/{theirs}/bias"] = state[f"b{side}.{ours}.bias"]
    own |= {"4x4/Conv/weight": _filter(state["b4.conv.weight"]), "4x4/Conv/bias": state["b4.conv.bias"]}
    for ours, theirs in (("fc", "4x4/Dense0"), ("out", "Output")):
        own |= {f"{theirs}/weight": _matrix(state[f"b4.{ours}.weight"]), f"{theirs}/bias": state[f"b4.{ours}.bias"]}
    return first, _network("D", version, own, {"mbstd_group_size": 4, "resolution": SIZE}), average


def _tensorflow_generator(g: StyleGAN2, version: int) -> Network:
    state = g.state_dict()
    mapping: dict[str, Tensor] = {}
    for i in range(g.mapping.depth):
        mapping[f"Dense{i}/weight"] = _matrix(state[f"mapping.fc{i}.weight"])
        mapping[f"Dense{i}/bias"] = state[f"mapping.fc{i}.bias"]
    synthesis: dict[str, Tensor] = {"4x4/Const/const": state["synthesis.b4.const"][None]}
    for side in g.synthesis.sides:
        names = {"conv1": "Conv"} if side == 4 else {"conv0": "Conv0_up", "conv1": "Conv1"}
        for ours, theirs in (names | {"torgb": "ToRGB"}).items():
            here, there = f"synthesis.b{side}.{ours}", f"{side}x{side}/{theirs}"
            synthesis |= {
                f"{there}/weight": (_mirrored if ours == "conv0" else _filter)(state[f"{here}.weight"]),
                f"{there}/bias": state[f"{here}.bias"],
                f"{there}/mod_weight": _matrix(state[f"{here}.affine.weight"]),
                f"{there}/mod_bias": state[f"{here}.affine.bias"] - 1,
            }
            if ours != "torgb":
                number = 2 * int(math.log2(side)) - (5 if ours == "conv0" else 4)
                synthesis[f"{there}/noise_strength"] = state[f"{here}.noise_strength"]
                synthesis[f"noise{number}"] = state[f"{here}.noise_const"][None, None]
    parts = {
        "mapping": _network("G_mapping", version, mapping, {}),
        "synthesis": _network("G_synthesis", version, synthesis, {}),
    }
    return _network("G", version, {"dlatent_avg": state["mapping.w_avg"]}, {"resolution": SIZE}, parts)


def _network(
    name: str, version: int, own: dict[str, Tensor], settings: dict[str, Any], parts: dict[str, Network] | None = None
) -> Network:
    def array(value: Tensor) -> Any:
        # As TensorFlow's sessions return them: no dimensions, no array.
        return value.numpy().copy() if value.ndim else np.float32(float(value))

    return Network(
        version=version,
        name=name,
        static_kwargs=EasyDict(settings),
        components=EasyDict(parts or {}),
        build_module_src=SOURCE,
        build_func_name=f"{name}_main",
        variables=[(k, array(v)) for k, v in own.items()],
    )
