"""Where StyleGAN2's training starts: files of weights, whole or in part, and what their content determines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_gan_training import RNG, settings
from tiny import same_state, split
from torch import Tensor

from coinbench.errors import DataError
from coinbench.generators.initial import start_from
from coinbench.generators.stylegan2 import NETWORKS, build, fit
from coinbench.generators.stylegan2_config import StyleGAN2Config
from coinbench.generators.stylegan2_training import build_discriminator
from coinbench.log import Log
from coinbench.networks.stylegan2 import StyleGAN2
from coinbench.rng import Rng, seeded


def converted(path: Path, config: StyleGAN2Config, parts: tuple[str, ...]) -> dict[str, Tensor]:
    """Write a file as `coinbench weights convert` does, of networks that differ from each other."""
    tensors = {}
    for seed, part in enumerate(parts):
        generator = build(config, 16, 3, Rng(100 + seed)).network
        network = build_discriminator(config, generator, Rng(100 + seed)) if part == "D" else generator
        tensors |= {f"{part}.{k}": v.clone() for k, v in network.state_dict().items()}
    save_file(tensors, path)
    return tensors


@pytest.mark.parametrize("parts", [("G_ema", "G", "D"), ("G_ema", "D"), ("G_ema",)])
def test_fine_tuning_starts_from_all_that_a_file_has(parts: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "source.safetensors"
    tensors = converted(path, settings(), parts)
    generator = build(settings(), 16, 3, RNG).network
    discriminator = build_discriminator(settings(), generator, RNG)
    drawn = {k: v.clone() for k, v in discriminator.state_dict().items()}
    average = start_from(path, generator, discriminator)
    assert average is not None
    assert all(torch.equal(v, tensors[f"G_ema.{k}"]) for k, v in average.items())
    source = "G" if "G" in parts else "G_ema"
    assert all(torch.equal(v, tensors[f"{source}.{k}"]) for k, v in generator.state_dict().items())
    expected = {k: tensors[f"D.{k}"] for k in drawn} if "D" in parts else drawn
    assert all(torch.equal(v, expected[k]) for k, v in discriminator.state_dict().items())


def test_fine_tuning_trains_and_taking_as_it_is_does_not(tmp_path: Path) -> None:
    path = tmp_path / "source.safetensors"
    tensors = converted(path, settings(), ("G_ema", "G", "D"))
    for finetune in (True, False):
        config = settings(init=path, finetune=finetune, train={"steps": 1})
        network = build(config, 16, 3, RNG)
        fit(config, network, split("train", 12, 16), RNG, Log(tmp_path / str(finetune)))
        same = [torch.equal(v, tensors[f"G_ema.{k}"]) for k, v in network.state_dict().items()]
        assert all(same) != finetune


def test_a_source_of_another_shape_names_its_tensors_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "source.safetensors"
    converted(path, settings(w_dim=8), ("G_ema",))
    network = build(settings(), 16, 3, RNG).network
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(DataError, match=r"G_ema does not fit in mapping\.w_avg .* and \d+ more; set problem") as error:
        start_from(path, network, build_discriminator(settings(), network, RNG))
    assert "\n" not in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize(("part", "change"), [("D", {"most": 8, "base": 128}), ("G", {"depth": 3}), ("D", None)])
def test_a_d_or_g_that_does_not_fit_is_found_before_anything_is_fitted(
    part: str, change: dict[str, int] | None, tmp_path: Path
) -> None:
    path, other = tmp_path / "source.safetensors", tmp_path / "other.safetensors"
    tensors = converted(path, settings(), ("G_ema", "G", "D"))
    foreign = converted(other, settings(**(change or {})), ("G_ema", "G", "D"))
    mixed = {key: value for key, value in tensors.items() if not key.startswith(f"{part}.")}
    mixed |= {key: value for key, value in foreign.items() if key.startswith(f"{part}.")}
    if change is None:
        mixed["D.b4.out.bias"] = mixed["D.b4.out.bias"].half()
    save_file(mixed, path)
    words = {"D": "D does not fit in b", "G": r"G has a foreign mapping\.fc2\.bias, mapping\.fc2\.weight; set problem"}[
        part
    ]
    with pytest.raises(DataError, match=words if change else r"D does not fit in b4\.out\.bias \(type torch\.float16"):
        build(settings(init=path), 16, 3, RNG)
    # Taken as it is, G needs neither.
    build(settings(init=path, finetune=False), 16, 3, RNG)


@pytest.mark.parametrize(
    ("told", "own", "warned"),
    [(8, None, "over 8 images"), (None, None, "over all images"), (4, None, ""), (8, 2, ""), ("none", None, "")],
)
def test_another_minibatch_deviation_of_d_is_told(told: Any, own: int | None, warned: str, tmp_path: Path) -> None:
    path = tmp_path / "source.safetensors"
    tensors = converted(path, settings(group=own), ("G_ema", "G", "D"))
    # What is damaged tells nothing.
    save_file(tensors, path, {"discriminator": json.dumps({"group": told})})
    said: list[str] = []
    config = settings(init=path, group=own, train={"steps": 1})
    log = Log(tmp_path / "log", lambda event: said.append(event.get("text", "")))
    fit(config, build(config, 16, 3, RNG), split("train", 12, 16), RNG, log)
    found = [text for text in said if "minibatch deviations" in text]
    assert bool(found) == bool(warned)
    if found:
        assert f"trained with minibatch deviations {warned} of a batch and goes on with 4" in found[0]
        assert f"set problem.generator.group={told or 4} to keep it" in found[0]


def test_as_it_is_needs_a_file() -> None:
    with pytest.raises(ValueError, match="finetune=false needs a file"):
        StyleGAN2Config(finetune=False)


def test_what_a_training_leaves_is_where_another_can_start(tmp_path: Path) -> None:
    config, images = settings(train={"steps": 2}), split("train", 12, 16)
    network = build(config, 16, 3, RNG)
    fit(config, network, images, RNG, Log(tmp_path / "first"))
    taken = settings(init=tmp_path / "first" / NETWORKS, finetune=False)
    again = build(taken, 16, 3, Rng(9))
    fit(taken, again, images, RNG, Log(tmp_path / "second"))
    assert same_state(network, again)
    parts = {key.partition(".")[0] for key in load_file(tmp_path / "first" / NETWORKS)}
    assert parts == {"G_ema", "G", "D"}


def test_the_content_of_a_source_determines_g_and_its_place_does_not(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.safetensors"))
    converted(a, settings(), ("G_ema",))
    converted(b, settings(), ("G_ema", "G"))
    c.write_bytes(a.read_bytes())
    keys = [settings(init=path).digest() for path in (a, b, c)]
    assert keys[0] == keys[2] != keys[1]
    assert settings().digest() not in keys
    assert settings(judge_kimg=3.0).digest() == settings().digest(), "when it is looked at changes no number"
    with pytest.raises(DataError, match=r"init=.*gone.safetensors: not readable \(No such file.*\); make it"):
        settings(init=tmp_path / "gone.safetensors").digest()


def test_truncation_changes_what_is_learnt_from_g_and_not_g() -> None:
    plain, cut = settings(), settings(truncation=0.7, cutoff=3)
    assert not {"truncation", "cutoff"} & plain.key().keys(), "what was trained before there was one is found"
    assert cut.key() == plain.key() | {"truncation": 0.7, "cutoff": 3}
    assert cut.weights_key() == plain.weights_key() == plain.key()


def test_a_conditional_source_is_refused_for_what_it_is(tmp_path: Path) -> None:
    with seeded(Rng(3)):
        network = StyleGAN2(size=16, z_dim=6, w_dim=6, depth=2, base=64, most=4, c_dim=3)
    path = tmp_path / "labels.safetensors"
    save_file({f"G_ema.{k}": v.clone() for k, v in network.state_dict().items()}, path)
    with pytest.raises(DataError, match="G_ema is conditional"):
        build(settings(init=path), 16, 3, RNG)
