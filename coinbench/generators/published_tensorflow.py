"""StyleGAN2 as the TensorFlow code records it (StyleGAN2 of 2019, StyleGAN2-ADA): names and layouts to ours.

A network is its settings, its variables and the networks within it. The layouts: filters stand as height, width, in,
out; matrices as in, out; the filters that double the resolution are mirrored; biases of styles are stored less 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from coinbench.generators.published import TENSORS, Network, Settings
from coinbench.generators.shapes import arguments_of, expected
from coinbench.generators.stored_tensors import Array, is_count
from coinbench.generators.unpickle import LETTERS, Budget, Refused, quoted, shown
from coinbench.networks import fir

VERSIONS = (4, 5)
"""Of the records: StyleGAN2 and StyleGAN2-ADA."""
CLASS = "dnnlib.tflib.network.Network"


@dataclass(eq=False)
class TensorflowNetwork:
    """A recorded network."""

    state: dict[Any, Any] = field(default_factory=dict)

    def build(self, state: Any) -> None:
        """Take the attributes.

        Raises:
            Refused: they are of another version, or damaged.
        """
        if not isinstance(state, dict):
            raise Refused("records a TensorFlow network without attributes")
        version = state.get("version")
        if not is_count(version) or version not in VERSIONS:
            raise Refused(
                f"records a TensorFlow network in version {shown(version)}; 4 and 5 are read (older "
                "ones are of StyleGAN1 or of StyleGAN2's other architectures)"
            )
        self.state = state


def calls() -> Mapping[str, Callable[..., Any]]:
    """Return what calls in such a pickle make of anything but arrays."""
    return {CLASS: without_attributes}


def without_attributes() -> TensorflowNetwork:
    """Return the network that the file completes afterwards; it cannot be given its attributes unchecked."""
    return TensorflowNetwork()


def recorded(network: TensorflowNetwork, kind: str, budget: Budget) -> Network:
    """Return a network under our names.

    Args:
        network: what the file holds.
        kind: Generator or Discriminator.
        budget: what the file may still cost; some layouts are rearranged in copies.

    Raises:
        Refused: a variable that ours does not have, or settings that ours does not have.
    """
    variables: dict[str, Tensor] = {}
    settings: dict[Any, Any] = {}
    sources: set[str] = set()
    _collect(network, "", variables, settings, sources, 0)
    choices = _check(Settings("static_kwargs", settings), kind)
    rename = _of_generator if kind == "Generator" else _of_discriminator
    tensors: dict[str, Tensor] = {}
    for name, value in variables.items():
        found = rename(name)
        if found is None:
            raise Refused(f"holds the variable {quoted(name)}, which StyleGAN2's {kind} does not have")
        key, how = found
        if key in tensors:
            raise Refused(f"holds {quoted(key)} twice")
        if how in ("mirrored", "style"):
            budget.copy(value.nbytes)
        tensors[key] = _LAYOUTS[how](value, name)
    arguments = arguments_of(tensors, kind) | choices
    # TensorFlow keeps the filter as a setting, which was checked; the others keep it in every layer.
    for key in expected(arguments, kind):
        if key.endswith(".resample_filter"):
            tensors[key] = fir.kernel()
    return Network(tensors, arguments, frozenset(sources))


def _collect(
    network: TensorflowNetwork,
    prefix: str,
    variables: dict[str, Tensor],
    settings: dict[Any, Any],
    sources: set[str],
    depth: int,
) -> None:
    """Gather what a network and those within it hold."""
    own, inner = network.state.get("variables"), network.state.get("components")
    static, source = network.state.get("static_kwargs"), network.state.get("build_module_src")
    if not isinstance(own, (list, tuple)) or not isinstance(inner, dict) or not isinstance(static, dict) or depth > 2:
        raise Refused("records a TensorFlow network without variables, components or settings")
    if isinstance(source, str):
        sources.add(hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest())
    if len(own) > TENSORS or len(static) > TENSORS:
        raise Refused("holds more variables or settings than a StyleGAN2 has")
    settings.update(static)
    for pair in own:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise Refused("records a variable without a name")
        if len(pair[0]) > LETTERS:
            raise Refused(f"holds the variable {quoted(pair[0])}, whose name is too long")
        value = pair[1].tensor if isinstance(pair[1], Array) else pair[1]
        if not isinstance(value, Tensor):
            raise Refused(f"holds no tensor at {quoted(prefix + pair[0])}")
        variables[prefix + pair[0]] = value
    for name, part in inner.items():
        if not isinstance(part, TensorflowNetwork) or name not in ("mapping", "synthesis"):
            raise Refused(f"holds the unknown part {shown(name)} of a network")
        _collect(part, f"{prefix}{name}/", variables, settings, sources, depth + 1)


def _check(settings: Settings, kind: str) -> dict[str, Any]:
    """Check the settings that ours does not have, and return those that leave no trace in the shapes."""
    settings.only("architecture", "skip" if kind == "Generator" else "resnet")
    settings.only("nonlinearity", "lrelu")
    settings.only("resample_kernel", (1, 3, 3, 1))
    if kind == "Generator":
        settings.only("use_noise", True)
        settings.only("mapping_nonlinearity", "lrelu")
        settings.only("mapping_lrmul", 0.01)
        settings.only("normalize_latents", True)
    clamp = settings.take("conv_clamp")
    if clamp is not None and (type(clamp) not in (int, float) or not 0 < clamp < 1e30):
        raise Refused("records a conv_clamp that is no bound")
    found: dict[str, Any] = {"clamp": None if clamp is None else float(clamp)}
    if kind == "Discriminator":
        settings.only("mbstd_num_features", 1)
        found["group"] = settings.count("mbstd_group_size", 4, 1, 1024)
    return found


_LAYER = {
    "weight": ("weight", "filter"),
    "bias": ("bias", "same"),
    "noise_strength": ("noise_strength", "same"),
    "mod_weight": ("affine.weight", "matrix"),
    "mod_bias": ("affine.bias", "style"),
}


def _of_generator(name: str) -> tuple[str, str] | None:
    """Return key and layout of a variable of G."""
    match name.split("/"):
        case ["dlatent_avg"]:
            return "mapping.w_avg", "same"
        case ["mapping", layer, "weight" | "bias" as what]:
            return _connected(layer, "Dense", what)
        case ["synthesis", noise] if (number := noise.removeprefix("noise")).isdecimal() and len(number) <= 2:
            # noise0: conv1 of 4 pixels; noise1, noise2: conv0 and conv1 of 8; and so on.
            side = 2 ** ((int(number) + 5) // 2)
            return f"synthesis.b{side}.conv{(int(number) + 1) % 2}.noise_const", "noise"
        case ["synthesis", "4x4", "Const", "const"]:
            return "synthesis.b4.const", "const"
        case ["synthesis", place, layer, what] if what in _LAYER and place in _SIDES:
            own = {"Conv": "conv1"} if place == "4x4" else {"Conv0_up": "conv0", "Conv1": "conv1"}
            key, how = _LAYER[what]
            if layer == "Conv0_up" and how == "filter":
                how = "mirrored"
            if target := (own | {"ToRGB": "torgb"}).get(layer):
                return f"synthesis.b{_SIDES[place]}.{target}.{key}", how
    return None


def _of_discriminator(name: str) -> tuple[str, str] | None:
    """Return key and layout of a variable of D."""
    match name.split("/"):
        case ["Output", "weight" | "bias" as what]:
            return f"b4.out.{what}", "matrix" if what == "weight" else "same"
        case ["4x4", "Dense0", "weight" | "bias" as what]:
            return f"b4.fc.{what}", "matrix" if what == "weight" else "same"
        case [layer, "weight" | "bias" as what]:
            return _connected(layer, "Mapping", what)
        case [place, layer, "weight" | "bias" as what] if place in _SIDES:
            larger = {"FromRGB": "fromrgb", "Conv0": "conv0", "Conv1_down": "conv1", "Skip": "skip"}
            if target := ({"Conv": "conv"} if place == "4x4" else larger).get(layer):
                return f"b{_SIDES[place]}.{target}.{what}", "filter" if what == "weight" else "same"
    return None


def _connected(layer: str, numbered: str, what: str) -> tuple[str, str] | None:
    """Return key and layout of a layer of a mapping."""
    number = layer.removeprefix(numbered)
    own = "embed" if layer == "LabelEmbed" else f"fc{number}" if number.isdecimal() else None
    return (f"mapping.{own}.{what}", "matrix" if what == "weight" else "same") if own else None


_SIDES = {f"{2**i}x{2**i}": 2**i for i in range(2, 11)}
"""Scopes of the blocks."""


def _turned(dimensions: int, *order: int, mirrored: bool = False) -> Callable[[Tensor, str], Tensor]:
    def turn(value: Tensor, name: str) -> Tensor:
        if value.ndim != dimensions:
            raise Refused(f"holds {quoted(name)} with {value.ndim} dimensions, expected {dimensions}")
        value = value.flip(0, 1) if mirrored else value
        return value.permute(order)

    return turn


def _first(count: int) -> Callable[[Tensor, str], Tensor]:
    def take(value: Tensor, name: str) -> Tensor:
        if value.ndim <= count or value.shape[:count] != (1,) * count:
            raise Refused(f"holds {quoted(name)} with another shape than StyleGAN2's")
        return value.flatten(0, count)

    return take


_LAYOUTS: Mapping[str, Callable[[Tensor, str], Tensor]] = {
    "same": lambda value, _: value,
    "style": lambda value, _: value + 1,
    "matrix": _turned(2, 1, 0),
    "filter": _turned(4, 3, 2, 0, 1),
    "mirrored": _turned(4, 3, 2, 0, 1, mirrored=True),
    "const": _first(1),
    "noise": _first(2),
}
