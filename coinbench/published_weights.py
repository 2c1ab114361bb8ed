"""Weights that others publish and coinbench starts from or measures with: where they come from, where they lie.

Imports torch only where tensors are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from coinbench import fetch
from coinbench.cache import default_root
from coinbench.errors import DataError, unknown
from coinbench.fetch import Remote
from coinbench.log import Log

if TYPE_CHECKING:
    from torch import Tensor

_TORCHVISION = "https://download.pytorch.org/models/"
_NVIDIA = "https://nvlabs-fi-cdn.nvidia.com/"
_FIDELITY = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A file of weights."""

    remote: Remote
    purpose: str
    licence: str
    generator: bool = False
    """A pickle of StyleGAN2, of which a run reads what `weights convert` makes of it."""


def _imagenet(name: str, purpose: str) -> Published:
    # torchvision names its files by the beginning of their sha256.
    digest = name.rpartition("-")[2].removesuffix(".pth")
    return Published(
        remote=Remote(name=name, url=_TORCHVISION + name, digests=(("sha256", digest),)),
        purpose=purpose,
        licence="torchvision: BSD-3-Clause; trained on ImageNet, whose terms are non-commercial research",
    )


def _stylegan2(name: str, url: str, purpose: str) -> Published:
    return Published(
        remote=Remote(name=name, url=url + name),
        purpose=purpose,
        licence="NVIDIA Source Code License: research or evaluation only",
        generator=True,
    )


FILES: Mapping[str, Published] = {
    "resnet50": _imagenet("resnet50-0676ba61.pth", "f: ResNet50, 76.13 % on ImageNet-1k"),
    "resnet101": _imagenet("resnet101-63fe2227.pth", "f: ResNet101, 77.37 % on ImageNet-1k"),
    "vit_b_16": _imagenet("vit_b_16-c867db91.pth", "f: ViT-B/16, 81.07 % on ImageNet-1k"),
    "squeezenet1_1": _imagenet("squeezenet1_1-b8a52dc0.pth", "f: SqueezeNet 1.1; LPIPS squeeze"),
    "vgg16": _imagenet("vgg16-397923af.pth", "LPIPS vgg: training of VisCoIN, and measured"),
    "alexnet": _imagenet("alexnet-owt-7be5be79.pth", "LPIPS alex"),
    "inception": Published(
        remote=Remote(
            name="weights-inception-2015-12-05-6726825d.pth",
            url=_FIDELITY + "weights-inception-2015-12-05-6726825d.pth",
            digests=(("sha256", "6726825d"),),
        ),
        purpose="FID and KID: TensorFlow's Inception of 2015, as torch-fidelity has it",
        licence="Apache-2.0",
    ),
    "celebahq256": _stylegan2(
        "celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl",
        _NVIDIA + "stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets/",
        "G: StyleGAN2-ADA of CelebA-HQ at 256 px, the paper's",
    ),
    "imagenet256": Published(
        remote=Remote(
            name="imagenet-256-state.pt",
            hint="get imagenet-256-state.pt from the links of github.com/yandex-research/gan-transfer and put it there",
        ),
        purpose="G: StyleGAN2-ADA of ImageNet at 256 px, where the paper's CUB-200 begins",
        licence="see its publisher; trained on ImageNet, whose terms are non-commercial research",
        generator=True,
    ),
    "lsuncars512": _stylegan2(
        "stylegan2-car-config-f.pkl",
        _NVIDIA + "stylegan2/networks/",
        "G: StyleGAN2 of LSUN-Cars at 512 x 384 px, where Stanford Cars begins",
    ),
}
"""Accuracies as torchvision states them. Of the generators no digest is published: what comes first is trusted, and
its sha256 noted in what it is converted to."""

TRUNKS: Mapping[str, str] = {"lpips_vgg": "vgg16", "lpips_alex": "alexnet", "lpips_squeeze": "squeezenet1_1"}
"""Perceptual net of LPIPS -> the published weights under its linear heads, which come with the package lpips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file of weights that is here."""

    name: str
    """Of the published weights whose place it takes."""
    path: Path
    sha256: str
    genuine: bool
    """It is the published file."""

    @property
    def foreign(self) -> str:
        """What to say of numbers made with it; empty where it is the published file."""
        if self.genuine:
            return ""
        return (
            f"weights of {self.path.name} (sha256 {self.sha256[:16]}), not the published {known(self.name).remote.name}"
        )


def known(name: str) -> Published:
    """Return what is published under a name.

    Raises:
        UsageError: nothing is.
    """
    if name not in FILES:
        raise unknown("weights", name, list(FILES))
    return FILES[name]


def folder(cache: Path | None = None) -> Path:
    """Return where fetched weights lie."""
    return (cache or default_root()) / "weights"


def require(name: str, given: Path | None, weights: Path, setting: str, otherwise: str = "") -> Path:
    """Return a file of weights: the given one, or the fetched one, which is the published one.

    Args:
        name: of published weights.
        given: a file of the user's.
        weights: folder of fetched weights.
        setting: what names a file, for the message.
        otherwise: what else helps, for the message.

    Raises:
        DataError: it is not there, or another one; says how to get it.
    """
    path = _there(name, given, weights, setting, otherwise)
    if given is None:
        fetch.check(known(name).remote, path, Log(weights))
    return path


def _there(name: str, given: Path | None, weights: Path, setting: str, otherwise: str) -> Path:
    path = given or weights / known(name).remote.name
    if path.is_file():
        return path
    if given:
        raise DataError(f"{setting}={given}: no such file; name another one, or none for the published weights")
    raise DataError(
        f"{path}: the published weights of {name} are not there; get them with `coinbench weights fetch {name}`, or "
        f"name a file with --set {setting}=FILE{otherwise}"
    )


def find(name: str, given: Path | None, weights: Path, setting: str, otherwise: str = "") -> Found:
    """Return a file as `require` does, with what it is: a given file may be the published one too.

    Raises:
        DataError: it is not there, or another one; says how to get it.
    """
    path, remote = _there(name, given, weights, setting, otherwise), known(name).remote
    # Read once however many cells ask.
    sha256 = key_of(path, setting)
    genuine = sha256.startswith(dict(remote.digests)["sha256"])
    if given is None and not genuine:
        fetch.check(remote, path, Log(weights))
    return Found(name=name, path=path, sha256=sha256, genuine=genuine)


def converted(name: str, weights: Path) -> Path:
    """Return where the published generator `name` lies once it is converted, which is what a run reads."""
    return weights / f"{name}.safetensors"


def present(name: str, weights: Path) -> str:
    """Return "here", "not here", or of a generator that no run can read yet "not converted"."""
    fetched = (weights / known(name).remote.name).is_file()
    if not known(name).generator:
        return "here" if fetched else "not here"
    if converted(name, weights).is_file():
        return "here"
    return "not converted" if fetched else "not here"


def verdict(name: str, weights: Path) -> str:
    """Say of a file that is here what it was compared with: publishers give a whole sha256, its beginning, or none.

    Raises:
        DataError: a converted generator is damaged.
    """
    if known(name).generator:
        from coinbench.generators.convert import describe

        of = describe(converted(name, weights))["sha256"]
        return f"converted from sha256 {of}; its publisher gives no digest to compare with"
    digest = dict(known(name).remote.digests).get("sha256")
    if digest is None:
        return "its publisher gives no digest to compare with"
    whole = f"sha256 {digest}" if len(digest) == 64 else f"sha256 begins with {digest}, all that its publisher gives"
    return f"as published ({whole})"


def bring(name: str, cache: Path | None, log: Log) -> Path:
    """Fetch and verify a file, and convert a generator; what is there is verified. Return what a run reads.

    Raises:
        UsageError: nothing is published under the name.
        DataError: it cannot be fetched, is not the published one, or no StyleGAN2.
    """
    path = fetch.download(known(name).remote, folder(cache), log)
    if not known(name).generator:
        return path
    if not (target := converted(name, path.parent)).is_file():
        from coinbench.generators.convert import convert

        log.say("converting")
        convert(path, target)
    return target


def generator_file(name: str, weights: Path, setting: str) -> Path:
    """Return a published generator as `weights fetch` converted it.

    Raises:
        DataError: it is not there; says how to get it, and what else can be done.
    """
    path = converted(name, weights)
    if path.is_file():
        return path
    raise DataError(
        f"{path}: the published generator {name} is not there; get and convert it with "
        f"`coinbench weights fetch {name}`, or train G anew with --set {setting}=scratch"
    )


def verified(name: str, cache: Path | None, log: Log) -> Path:
    """Return what a run reads: a file that is here and the published one; a generator made from the one beside it.

    Raises:
        UsageError: nothing is published under the name.
        DataError: it is not here, not converted, or another one.
    """
    here = folder(cache)
    path, state = here / known(name).remote.name, present(name, here)
    if state == "not here":
        raise DataError(f"{path}: not there; get it with `coinbench weights fetch {name}`")
    if not known(name).generator:
        fetch.check(known(name).remote, path, log)
        return path
    if state == "not converted":
        raise DataError(f"{path}: not converted, no run can read it; convert it with `coinbench weights fetch {name}`")
    from coinbench.generators.convert import describe

    target = converted(name, here)
    # The published file itself may be gone: nothing reads it any more.
    of = describe(target)["sha256"]
    if path.is_file() and fetch.check(known(name).remote, path, log)["sha256"] != of:
        raise DataError(f"{target}: not made from {path.name} beside it; delete both and fetch it again")
    return target


def key_of(path: Path, setting: str, remedy: str = "name another file") -> str:
    """Return the sha256 of a file, read once as long as its size and time stay; `remedy` ends the message of an error.

    Raises:
        DataError: it is not readable.
    """
    try:
        state = path.stat()
        return _sha256(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{setting}={path}: not readable ({error.strerror}); {remedy}") from error


@lru_cache
def _sha256(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or of a state dict that torch.save wrote; nothing in it is run.

    Raises:
        DataError: it is missing, damaged, or holds something else.
    """
    from safetensors import safe_open

    from coinbench.generators.state_dicts import read_flat
    from coinbench.generators.unpickle import Refused

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in list(file.keys())}
        return read_flat(path)
    except Refused as error:
        raise DataError(f"{path}: {error}; get the file anew from its publisher") from error
    # safetensors passes on errors of its own, of the system and of torch.
    except Exception as error:
        raise DataError(f"{path}: cannot be read ({error}); get the file anew from its publisher") from error
