"""`coinbench weights`: each published layout comes out as the tensors it was written from."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import published_files as files
import pytest
import torch
from commands import Cli, in_process, one_line
from safetensors import safe_open
from torch import Tensor, nn

from coinbench.errors import DataError, UsageError
from coinbench.generators.convert import NVIDIA, convert, describe
from coinbench.generators.initial import fill, read_parts, start_from
from coinbench.generators.shapes import arguments_of, expected
from coinbench.generators.stylegan2_config import StyleGAN2Config
from coinbench.networks import fir
from coinbench.networks.stylegan2 import StyleGAN2
from coinbench.networks.stylegan2_discriminator import Discriminator

N = TypeVar("N", bound=nn.Module)


def converted(path: Path, only: tuple[str, ...] = ()) -> dict[str, dict[str, Tensor]]:
    out = path.with_name("out.safetensors")
    convert(path, out, only)
    assert not {"torch_utils", "dnnlib"} & sys.modules.keys()
    return read_parts(out)


def same(found: dict[str, Tensor], network: nn.Module) -> None:
    """Bit for bit; nothing missing, nothing more."""
    state = network.state_dict()
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_official_file(tmp_path: Path, protocol: int) -> None:
    path = files.write(tmp_path / "cub.pkl", files.everything(), protocol)
    found = converted(path)
    assert found.keys() == {"G", "D", "G_ema"}
    same(found["G"], files.generator(1))
    same(found["D"], files.discriminator(2))
    same(found["G_ema"], files.generator(3))


@pytest.mark.parametrize("kind", ["pickle", "TensorFlow"])
def test_the_older_name_of_numpy(tmp_path: Path, kind: str) -> None:
    # The published files were written before numpy renamed its core.
    g = files.generator(3)
    content: Any = files.official(G_ema=files.record(g, files.ada_kwargs()))
    if kind == "TensorFlow":
        content = files.tensorflow((g, g), files.discriminator())
    data = files.pickled(content, 3)
    assert b"cnumpy._core.multiarray\n" in data
    path = tmp_path / "old.pkl"
    path.write_bytes(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert converted(path)["G_ema"].keys() == g.state_dict().keys()


def test_what_the_file_was_goes_with_the_weights(tmp_path: Path) -> None:
    path = files.write(tmp_path / "cub.pkl", files.everything())
    converted(path)
    told = describe(tmp_path / "out.safetensors")
    assert told["file"] == "cub.pkl"
    assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert told["source_sha256"] == [hashlib.sha256(files.SOURCE.encode()).hexdigest()]
    assert told["arguments"] == {**files.GENERATOR, "clamp": 256.0}
    assert told["discriminator"] == {**files.DISCRIMINATOR, "group": 4, "clamp": 256.0}
    assert told["not_converted"] == ["augment_pipe", "training_set_kwargs"]
    assert told["licence"] == NVIDIA
    assert "research or evaluation only" in NVIDIA
    values = sum(value.numel() for value in files.generator().state_dict().values())
    assert told["networks"]["G_ema"] == {"tensors": len(files.generator().state_dict()), "values": values}


def test_the_arguments_make_the_network(tmp_path: Path) -> None:
    path = files.write(tmp_path / "cub.pkl", files.everything())
    found = converted(path)
    network = StyleGAN2(**describe(tmp_path / "out.safetensors")["arguments"])
    fill(network, found["G_ema"], path, "G_ema")
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(z), files.generator(3)(z), rtol=0, atol=0)


def test_training_starts_from_it(tmp_path: Path) -> None:
    files_, g, d = files.write(tmp_path / "cub.pkl", files.everything()), files.generator(8), files.discriminator(9)
    converted(files_)
    average = start_from(tmp_path / "out.safetensors", g, d)
    assert average is not None
    same(average, files.generator(3))
    same(g.state_dict(), files.generator(1))
    same(d.state_dict(), files.discriminator(2))


def test_settings_beside_the_others(tmp_path: Path) -> None:
    content = files.official(G_ema=files.record(files.generator(3), files.stylegan3_kwargs()), G=None, D=None)
    found = converted(files.write(tmp_path / "ffhq.pkl", content))
    assert found.keys() == {"G_ema"}
    same(found["G_ema"], files.generator(3))
    assert describe(tmp_path / "out.safetensors")["arguments"] == {**files.GENERATOR, "clamp": 256.0}


@pytest.mark.parametrize("clamp", [None, 64.0])
def test_the_clamp_is_that_of_the_layers(tmp_path: Path, clamp: float | None) -> None:
    # The official versions differ in its default: what the arguments leave out, the layers say.
    kwargs = files.stylegan3_kwargs()
    del kwargs["conv_clamp"]
    content = files.official(G_ema=files.record(files.generator(3, clamp=clamp), kwargs))
    converted(files.write(tmp_path / "ffhq.pkl", content))
    assert describe(tmp_path / "out.safetensors")["arguments"]["clamp"] == clamp


def test_labels_and_grey_images(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"c_dim": 3, "channels": 1}
    g, d = files.generator(3, **changes), files.discriminator(2, **changes)
    content = files.official(
        G_ema=files.record(g, files.ada_kwargs(**changes)), D=files.record(d, files.d_kwargs(**changes))
    )
    found = converted(files.write(tmp_path / "cifar.pkl", content))
    same(found["G_ema"], g)
    same(found["D"], d)


@pytest.mark.parametrize("frozen", [1, 4, 99])
def test_frozen_layers_are_weights_too(tmp_path: Path, frozen: int) -> None:
    kwargs = files.d_kwargs()
    kwargs["block_kwargs"]["freeze_layers"] = frozen
    content = files.official(
        G_ema=files.record(files.generator(), files.ada_kwargs()),
        D=files.record(files.discriminator(2), kwargs, frozen),
    )
    same(converted(files.write(tmp_path / "cub.pkl", content))["D"], files.discriminator(2))


@pytest.mark.parametrize("group", [None, 8])
def test_the_group_of_the_minibatch_deviation(tmp_path: Path, group: int | None) -> None:
    recorded = files.record(files.discriminator(2), files.d_kwargs())
    end = recorded.meta["state"]["_modules"]["b4"].meta["state"]["_modules"]["mbstd"]
    end.meta["state"]["group_size"] = group
    content = files.official(G_ema=files.record(files.generator(), files.ada_kwargs()), D=recorded)
    converted(files.write(tmp_path / "cub.pkl", content))
    assert describe(tmp_path / "out.safetensors")["discriminator"]["group"] == group


def test_an_unknown_d_can_be_left_out(tmp_path: Path) -> None:
    kwargs = {**files.d_kwargs(), "architecture": "orig"}
    content = {**files.everything(), "D": files.record(files.discriminator(2), kwargs)}
    path = files.write(tmp_path / "cifar.pkl", content)
    with pytest.raises(DataError, match=r"architecture 'orig' \(Discriminator\).* leave D out with --networks G_ema,G"):
        converted(path)
    assert converted(path, ("G_ema", "G")).keys() == {"G_ema", "G"}


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_tensorflow_file(tmp_path: Path, version: int, protocol: int) -> None:
    g, d, average = files.generator(1), files.discriminator(2), files.generator(3)
    found = converted(files.write(tmp_path / "car.pkl", files.tensorflow((g, average), d, version), protocol))
    same(found["D"], d)
    for part, network in (("G", g), ("G_ema", average)):
        for name, value in network.state_dict().items():
            if name.endswith("affine.bias"):
                # Stored less 1, in single precision.
                value.copy_((value - 1) + 1)
        same(found[part], network)
    assert describe(tmp_path / "out.safetensors")["arguments"] == {**files.GENERATOR, "clamp": None}


def _plain() -> dict[str, dict[str, Any]]:
    g, d, average = (n.state_dict() for n in (files.generator(1), files.discriminator(2), files.generator(3)))
    return {
        "flat": average,
        "nested": {"g_ema": average, "g": g, "d": d, "iteration": 7},
        "official names": {"G": g, "D": d, "G_ema": average},
    }


@pytest.mark.parametrize("save", [files.saved, files.older])
@pytest.mark.parametrize("kind", ["flat", "nested", "official names"])
def test_state_dict(tmp_path: Path, kind: str, save: Callable[[Any], bytes]) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(save(_plain()[kind]))
    found = converted(path)
    same(found["G_ema"], files.generator(3))
    if kind == "flat":
        assert found.keys() == {"G_ema"}
    else:
        same(found["G"], files.generator(1))
        same(found["D"], files.discriminator(2))
    told = describe(tmp_path / "out.safetensors")
    assert told["arguments"] == {**files.GENERATOR, "clamp": 256.0}
    assert told["licence"] == "unknown: ask whoever published the file"
    assert told["not_converted"] == (["iteration"] if kind == "nested" else [])


@pytest.mark.parametrize("save", [files.saved, files.older])
def test_tensors_that_share_or_skip_values(tmp_path: Path, save: Callable[[Any], bytes]) -> None:
    # As a state dict may hold them: transposed, and parts of one storage.
    state = dict(files.generator(3).state_dict())
    weight = state["mapping.fc1.weight"]
    both = torch.stack([state["mapping.fc0.bias"], state["mapping.fc1.bias"]], 1)
    state |= {"mapping.fc0.bias": both[:, 0], "mapping.fc1.bias": both[:, 1]}
    state["mapping.fc1.weight"] = weight.t().contiguous().t()
    path = tmp_path / "state.pt"
    path.write_bytes(save({"g_ema": state, "g": state}))
    same(converted(path)["G_ema"], files.generator(3))


def numbered(network: N) -> N:
    """Give a network without values some that differ within and between its tensors."""
    network.requires_grad_(False).to_empty(device="cpu")
    for i, (name, value) in enumerate(network.state_dict().items()):
        if name.endswith("resample_filter"):
            value.copy_(fir.kernel())
        else:
            value.copy_(torch.arange(i, i + value.numel(), dtype=torch.float32).reshape(value.shape))
    return network


@pytest.mark.parametrize(("depth", "recipe"), [(2, "auto"), (8, "paper256")])
def test_published_sizes(tmp_path: Path, depth: int, recipe: str) -> None:
    full = {"size": 256, "channels": 3, "c_dim": 0, "base": 16384, "most": 512}
    with torch.device("meta"):
        g = StyleGAN2(**full, depth=depth)
        d = Discriminator(**full)
    for network, kind in ((g, "Generator"), (d, "Discriminator")):
        found = arguments_of(network.state_dict(), kind)
        assert {name: found[name] for name in full} == full
        shapes = {name: value.shape for name, value in expected(found, kind).items()}
        assert shapes == {name: value.shape for name, value in network.state_dict().items()}
    # 22.7 million values of synthesis, and the mapping's (Karras et al. 2020).
    assert sum(p.numel() for p in g.synthesis.parameters()) == pytest.approx(22.67e6, rel=1e-3)
    kwargs = files.ada_kwargs(**full, depth=depth, z_dim=512, w_dim=512)
    networks = {"G_ema": files.record(numbered(g), kwargs)}
    if recipe == "auto":
        networks["D"] = files.record(numbered(d), files.d_kwargs(**full))
    path = files.write(tmp_path / f"{recipe}.pkl", files.official(**networks))
    found = converted(path)
    assert found.keys() == networks.keys()
    same(found["G_ema"], g)
    if "D" in found:
        same(found["D"], d)
    assert describe(tmp_path / "out.safetensors")["arguments"]["depth"] == depth


# The command line


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.chdir(tmp_path)
    return partial(in_process, capfd)


def test_convert_and_show(cli: Cli, tmp_path: Path) -> None:
    files.write(tmp_path / "cub.pkl", files.everything())
    ran = cli("weights", "convert", "cub.pkl", "deep/g.safetensors")
    assert (ran.code, ran.err) == (0, "")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cub.pkl", "deep", "g.safetensors"]
    shown = cli("weights", "show", "deep/g.safetensors")
    assert shown.out == ran.out
    for piece in ("G_ema", "size 16", "depth 2", "clamp 256.0", "cub.pkl", "research or evaluation only"):
        assert piece in shown.out
    flags = dict(re.findall(r"--set problem\.generator\.(\w+)=(\S+)", shown.out))
    own = {"resolution": 16, "z_dim": 6, "w_dim": 5, "depth": 2, "base": 64, "most": 8, "clamp": 256.0, "group": 4}
    assert flags == {"net": "stylegan2", **{name: str(value) for name, value in own.items()}}
    StyleGAN2Config.model_validate(flags)
    told = json.loads(cli("weights", "show", "deep/g.safetensors", "--json").out)
    assert told == describe(Path("deep/g.safetensors"))
    with safe_open(tmp_path / "deep/g.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["arguments"]) == told["arguments"]
        assert {key.split(".")[0] for key in file.keys()} == {"G", "D", "G_ema"}  # noqa: SIM118
    one = cli("weights", "convert", "cub.pkl", "deep/g.safetensors", "--networks", "G_ema", "--json")
    assert list(json.loads(one.out)["networks"]) == ["G_ema"]


WRONG = {
    "suffix": (("cub.pkl", "g.pt"), ["g.pt", "ends in .safetensors"]),
    "network": (("cub.pkl", "g.safetensors", "--networks", "G_ema,H"), ["unknown network 'H'", "G_ema"]),
    "no average": (("cub.pkl", "g.safetensors", "--networks", "G"), ["G_ema is always needed"]),
    "itself": (("same.safetensors", "same.safetensors"), ["would replace what is converted"]),
}


@pytest.mark.parametrize(("words", "pieces"), WRONG.values(), ids=WRONG.keys())
def test_wrong_usage(cli: Cli, tmp_path: Path, words: tuple[str, ...], pieces: list[str]) -> None:
    content = files.pickled(files.everything())
    for name in ("cub.pkl", "same.safetensors"):
        (tmp_path / name).write_bytes(content)
    one_line(cli("weights", "convert", *words), 2, *pieces)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("cub.pkl", "same.safetensors"), content
    )


def test_no_name_for_the_output(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.safetensors"):
        convert(tmp_path / "cub.pkl", tmp_path / "g")


@pytest.mark.parametrize("kind", ["missing", "text", "foreign"])
def test_show_of_another_file(cli: Cli, tmp_path: Path, kind: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "g.safetensors"
    if kind == "text":
        path.write_text("weights")
    elif kind == "foreign":
        save_file({"a": torch.zeros(6)}, path)
    one_line(cli("weights", "show", "g.safetensors"), 4, "g.safetensors", "coinbench weights convert FILE")
