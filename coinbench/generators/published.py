"""StyleGAN2 as the official PyTorch code records it: nested modules to a flat state dict and our arguments.

Each module is recorded as the name of its class, the text of its source (never run) and its attributes, the
arguments it was made with among them. A setting that our networks do not have must be at the value they assume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from coinbench.generators.stored_tensors import is_count
from coinbench.generators.unpickle import LETTERS, Budget, Refused, quoted, shown

VERSION = 6
"""Of the records, in StyleGAN2-ADA and StyleGAN3."""
_CLASSES = frozenset(
    {"Generator", "MappingNetwork", "SynthesisNetwork", "SynthesisBlock", "SynthesisLayer", "ToRGBLayer"}
    | {"FullyConnectedLayer", "Discriminator", "DiscriminatorBlock", "DiscriminatorEpilogue", "MinibatchStdLayer"}
    | {"Conv2dLayer"}
)
_DEEPEST, _MOST, TENSORS = 8, 1000, 10_000
"""Modules within modules, modules and tensors of one network: more than any StyleGAN2 has."""


@dataclass(frozen=True, eq=False)
class Module:
    """A recorded module."""

    class_name: str
    source: str
    state: dict[Any, Any]

    def part(self, kind: str) -> dict[Any, Any]:
        """Return its `_parameters`, `_buffers` or `_modules`."""
        found = self.state.get(kind)
        if not isinstance(found, dict) or len(found) > _MOST:
            raise Refused(f"records a {self.class_name} without {kind}, or with more than a StyleGAN2 has")
        if not all(isinstance(name, str) and len(name) <= LETTERS for name in found):
            raise Refused(f"records a {self.class_name} whose {kind} have no names, or long ones")
        return found


@dataclass(frozen=True, eq=False)
class Network:
    """What a file says of one network."""

    tensors: dict[str, Tensor]
    arguments: dict[str, Any]
    """Of coinbench.networks' StyleGAN2, or of its Discriminator."""
    sources: frozenset[str] = frozenset()
    """SHA-256 of each source text that was recorded with it."""


def record(meta: Any) -> Module:
    """Return a module from what the official code wrote of it.

    Raises:
        Refused: another version, or a damaged record.
    """
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise Refused("records something other than a module")
    version = meta.get("version")
    if not is_count(version) or version != VERSION:
        raise Refused(f"records modules in version {shown(version)}; version {VERSION} is read")
    name, source, state = (meta.get(key) for key in ("class_name", "module_src", "state"))
    if not isinstance(name, str) or not isinstance(source, str) or not isinstance(state, dict):
        raise Refused("records a module without class, source or attributes")
    return Module(name, source, state)


def calls(budget: Budget) -> Mapping[str, Callable[..., Any]]:
    """Return what calls in a pickle of modules make of anything but tensors."""
    return {
        "torch_utils.persistence._reconstruct_persistent_obj": record,
        "dnnlib.util.EasyDict": dict_without_content,
        "collections.OrderedDict": dict_without_content,
        "builtins.set": names(budget),
        "__builtin__.set": names(budget),
    }


def dict_without_content() -> dict[Any, Any]:
    """Return the dictionary that the file fills afterwards."""
    return {}


def names(budget: Budget) -> Callable[..., frozenset[str]]:
    """Return what makes a set of names, each of which costs an operation: a file may ask for it again and again."""

    def make(given: Any = ()) -> frozenset[str]:
        if not isinstance(given, (list, tuple)) or not all(isinstance(name, str) for name in given):
            raise Refused("holds a set of what are no names")
        budget.operations -= len(given)
        return frozenset(given)

    return make


@dataclass(eq=False)
class _Walk:
    """The flat state dict of a network."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    modules: list[Module] = field(default_factory=list)

    def visit(self, module: Any, prefix: str, depth: int) -> None:
        if not isinstance(module, Module):
            raise Refused(f"holds something other than a module at {quoted(prefix)}")
        if module.class_name not in _CLASSES:
            raise Refused(f"holds a module of the unknown class {quoted(module.class_name)} at {quoted(prefix)}")
        self.modules.append(module)
        if depth > _DEEPEST or len(self.modules) > _MOST:
            raise Refused("nests more modules than a StyleGAN2 has")
        passing = module.state.get("_non_persistent_buffers_set", ())
        passing = passing if isinstance(passing, (set, frozenset)) else ()
        for kind in ("_parameters", "_buffers"):
            for name, value in module.part(kind).items():
                if value is None or (kind == "_buffers" and name in passing):
                    continue
                if not isinstance(value, Tensor):
                    raise Refused(f"holds no tensor at {quoted(prefix + name)}")
                self.tensors[prefix + name] = value
        if len(self.tensors) > TENSORS:
            raise Refused("holds more tensors than a StyleGAN2 has")
        for name, inner in module.part("_modules").items():
            if inner is not None:
                self.visit(inner, f"{prefix}{name}.", depth + 1)


def recorded(module: Any, kind: str) -> Network:
    """Return a network from its record.

    Args:
        module: what the file holds under its name.
        kind: Generator or Discriminator.

    Raises:
        Refused: another kind of network, or one with settings that ours does not have.
    """
    walk = _Walk()
    walk.visit(module, "", 0)
    assert isinstance(module, Module)
    if module.class_name != kind:
        raise Refused(f"holds a {quoted(module.class_name)} where a {kind} belongs")
    given = module.state.get("_init_kwargs")
    if module.state.get("_init_args", ()) != () or not isinstance(given, dict):
        raise Refused(f"does not record the named arguments of its {kind}")
    read = _generator if kind == "Generator" else _discriminator
    arguments = read(Settings(kind, given), _clamp(walk.modules), walk.modules)
    # One text for all modules of a file: most are the same object.
    texts = {id(part.source): part.source for part in walk.modules}
    digests = {hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts.values()}
    return Network(walk.tensors, arguments, frozenset(digests))


class Settings:
    """Recorded arguments, each asked for once; what nobody asked for ends the conversion."""

    def __init__(self, where: str, given: Any) -> None:
        """Take arguments; `where` names them in messages."""
        if not isinstance(given, dict):
            raise Refused(f"records damaged {where}")
        self.where, self.left = where, dict(given)

    def take(self, name: str, default: Any = None) -> Any:
        """Take an argument as it is."""
        return self.left.pop(name, default)

    def count(self, name: str, default: int | None, least: int, most: int) -> int:
        """Take a whole number.

        Raises:
            Refused: it is none, or out of range.
        """
        value = self.take(name, default)
        if not is_count(value) or not least <= value <= most:
            raise Refused(f"records {name} {shown(value)} of its {self.where}, expected {least} to {most}")
        return value

    def only(self, name: str, *allowed: Any) -> None:
        """Check a setting that ours does not have; it may be absent, its default being the first one allowed."""
        value = self.take(name, allowed[0])
        if isinstance(value, (list, tuple)):
            # What is no row of numbers equals none that is allowed.
            value = tuple(value) if all(type(item) in (int, float) for item in value) else ()
        # Types first: a tensor among the arguments has no plain equality.
        if not any(type(value) is type(choice) and value == choice for choice in allowed):
            raise Refused(
                f"was made with {name} {shown(value)} ({self.where}); coinbench's StyleGAN2 has {allowed[0]} alone"
            )

    def drop(self, *without_effect: str) -> None:
        """Take what does not matter."""
        for name in without_effect:
            self.left.pop(name, None)

    def inner(self, name: str) -> Settings:
        """Take a group of arguments."""
        return Settings(name, self.take(name, {}))

    def end(self) -> None:
        """Check that nothing is left.

        Raises:
            Refused: names an argument that nobody asked for.
        """
        if self.left:
            raise Refused(f"was made with the unknown setting {min(shown(name) for name in self.left)} ({self.where})")

    def shape(self) -> dict[str, int]:
        """Take what the outer shape of either network follows from."""
        return {
            "size": self.count("img_resolution", None, 16, 1024),
            "channels": self.count("img_channels", None, 1, 16),
            "c_dim": self.count("c_dim", 0, 0, 100_000),
        }

    def widths(self) -> dict[str, int]:
        """Take what the channels follow from."""
        return {
            "base": self.count("channel_base", 32768, 64, 131072),
            "most": self.count("channel_max", 512, 1, 2048),
        }

    def layers(self, architecture: str) -> None:
        """Take what our layers have no choice of, or what does not change the weights' meaning."""
        self.only("architecture", architecture)
        self.only("activation", "lrelu")
        self.only("resample_filter", (1, 3, 3, 1))
        # The layers' own records say what the clamp was.
        self.drop("conv_clamp", "num_fp16_res", "use_fp16", "fp16_channels_last", "fused_modconv_default")

    def mapping(self, width: int, rate: float) -> int:
        """Take the settings of a mapping of `width`, and return its depth."""
        depth = self.count("num_layers", 8, 1, 16)
        self.only("embed_features", None, width)
        self.only("layer_features", None, width)
        self.only("activation", "lrelu")
        self.only("lr_multiplier", rate)
        self.drop("w_avg_beta")
        self.end()
        return depth


def _generator(given: Settings, clamp: float | None, _: list[Module]) -> dict[str, Any]:
    found: dict[str, Any] = given.shape()
    found["z_dim"] = given.count("z_dim", None, 1, 4096)
    found["w_dim"] = given.count("w_dim", None, 1, 4096)
    found["depth"] = given.inner("mapping_kwargs").mapping(found["w_dim"], 0.01)
    # StyleGAN2-ADA keeps the settings of the synthesis in a group of their own, StyleGAN3 beside the others.
    synthesis = given.inner("synthesis_kwargs") if "synthesis_kwargs" in given.left else given
    found |= synthesis.widths()
    synthesis.layers("skip")
    synthesis.only("kernel_size", 3)
    synthesis.only("use_noise", True)
    synthesis.end()
    given.end()
    return found | {"clamp": clamp}


def _discriminator(given: Settings, clamp: float | None, modules: list[Module]) -> dict[str, Any]:
    found: dict[str, Any] = given.shape() | given.widths()
    width = min(found["base"] // 4, found["most"])
    given.layers("resnet")
    given.only("cmap_dim", None, width)
    blocks, mapping, end = (given.inner(f"{name}_kwargs") for name in ("block", "mapping", "epilogue"))
    # Frozen layers keep their weights as buffers of the same names.
    blocks.drop("freeze_layers")
    blocks.layers("resnet")
    if found["c_dim"] and mapping.mapping(width, 0.01) != 8:
        raise Refused("was made with a mapping of labels of another depth than 8 (Discriminator)")
    end.only("mbstd_num_channels", 1)
    end.only("activation", "lrelu")
    end.drop("mbstd_group_size")
    for settings in (blocks, end, given):
        settings.end()
    groups = [part.state.get("group_size") for part in modules if part.class_name == "MinibatchStdLayer"]
    if len(groups) != 1 or not (groups[0] is None or (is_count(groups[0]) and groups[0])):
        raise Refused("does not record the group of its Discriminator's minibatch deviation")
    return found | {"group": groups[0], "clamp": clamp}


def _clamp(modules: list[Module]) -> float | None:
    """Return the bound of activations that the layers were made with; the official versions differ in its default."""
    kinds = ("SynthesisLayer", "ToRGBLayer", "Conv2dLayer")
    found = [part.state.get("conv_clamp") for part in modules if part.class_name in kinds]
    # The skip of a block, which is linear, lacks what the others have.
    bounds = [bound for bound in found if bound is not None]
    if not all(type(bound) in (int, float) and 0 < bound < 1e30 and bound == bounds[0] for bound in bounds):
        raise Refused("records layers whose conv_clamp is no bound that all share")
    return float(bounds[0]) if bounds else None
