"""StyleGAN2's training: losses against finite differences, recipes, averages, checkpoints that lose nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_problem, rows, same_state, split
from torch import Tensor

from coinbench.cache import CHECKPOINT
from coinbench.config import TrainConfig
from coinbench.conformance.generators import small_generator
from coinbench.errors import CoinbenchError, DataError, Interrupted, UsageError
from coinbench.generators import gan_losses
from coinbench.generators.stylegan2 import BEST, GENERATOR, StyleGAN2Generator, build, fit
from coinbench.generators.stylegan2_config import StyleGAN2Config, resolution_of, settle
from coinbench.generators.stylegan2_training import Duel, averaging, build_discriminator, lazy_adam
from coinbench.log import Log
from coinbench.networks.stylegan2 import StyleGAN2
from coinbench.networks.stylegan2_discriminator import Discriminator
from coinbench.problem import Split
from coinbench.rng import Rng, seeded

RNG = Rng(5).child("generator")
DOUBLE = torch.float64


def settings(**changes: object) -> StyleGAN2Config:
    train = {"steps": 18, "batch": 4, "lr": 2e-3, "betas": (0.0, 0.99), "log_every": 1, "checkpoint_seconds": 0}
    changes["train"] = TrainConfig.model_validate(train | dict(changes.pop("train", {})))  # pyright: ignore[reportCallIssue, reportArgumentType]
    config = small_generator(GENERATOR, **{"ada_kimg": 0.02, "r1": 1.0} | changes)
    assert isinstance(config, StyleGAN2Config)
    return config


def duel(config: StyleGAN2Config, images: Split | None = None) -> Duel:
    generator = build(config, 16, 3, RNG).network
    return Duel(config, generator, build_discriminator(config, generator, RNG), images or split("train", 12, 16))


def test_r1_is_the_squared_gradient_by_finite_differences() -> None:
    with seeded(Rng(0)):
        d = Discriminator(size=16, base=64, most=4, group=2).double()
        x = torch.randn(2, 3, 16, 16, dtype=DOUBLE, requires_grad=True)
    penalty = gan_losses.r1(d(x), x)
    gradient, step = torch.zeros_like(x), 1e-6
    with torch.no_grad():
        for place in range(x[0].numel()):
            shift = torch.zeros_like(x).flatten(1)
            shift[:, place] = step
            moved = shift.view_as(x)
            # The minibatch deviation couples the images: the derivative is of the sum of all logits.
            gradient.view(2, -1)[0, place] = _both(d, x, moved, 0, step)
            gradient.view(2, -1)[1, place] = _both(d, x, moved, 1, step)
    expected = gradient.square().sum((1, 2, 3)).mean() / 2
    torch.testing.assert_close(penalty.detach(), expected, rtol=1e-5, atol=1e-10)


def _both(d: Discriminator, x: Tensor, moved: Tensor, image: int, step: float) -> Tensor:
    only = torch.zeros_like(moved)
    only[image] = moved[image]
    return (d(x + only).sum() - d(x - only).sum()) / (2 * step)


def test_path_lengths_are_those_of_the_jacobian_by_finite_differences() -> None:
    with seeded(Rng(1)):
        g = StyleGAN2(size=16, z_dim=3, w_dim=3, depth=1, base=64, most=4).double()
        w = torch.randn(2, g.n_styles, 3, dtype=DOUBLE, requires_grad=True)
        y = torch.randn(2, 3, 16, 16, dtype=DOUBLE)
    lengths = gan_losses.path_lengths(g.synthesis(w, "none"), w, y)
    gradient, step = torch.zeros_like(w), 1e-6
    with torch.no_grad():
        for place in range(w[0].numel()):
            shift = torch.zeros(w[0].numel(), dtype=DOUBLE)
            shift[place] = step
            moved = shift.view_as(w[0])
            images = (g.synthesis(w + moved, "none") - g.synthesis(w - moved, "none")) / (2 * step)
            gradient.view(2, -1)[:, place] = (images * y / 16).sum((1, 2, 3))
    expected = gradient.square().sum(2).mean(1).sqrt()
    torch.testing.assert_close(lengths.detach(), expected, rtol=1e-5, atol=1e-9)


def test_the_path_penalty_moves_its_mean_first_and_lets_the_gradient_through_it() -> None:
    lengths = torch.tensor([1.0, 3.0], dtype=DOUBLE, requires_grad=True)
    penalty, mean = gan_losses.path_penalty(lengths, torch.tensor(1.0, dtype=DOUBLE))
    assert mean.item() == pytest.approx(1.01)
    assert penalty.item() == pytest.approx(((1 - 1.01) ** 2 + (3 - 1.01) ** 2) / 2)
    penalty.backward()
    # d/dl1 of ((l1 - a)² + (l2 - a)²) / 2 with a = .99 + .01 (l1 + l2) / 2.
    assert lengths.grad is not None
    assert lengths.grad[0].item() == pytest.approx((1 - 1.01) * (1 - 0.005) + (3 - 1.01) * -0.005)


def test_styles_are_mixed_as_often_and_where_they_should_be() -> None:
    cuts = gan_losses.draw_cuts(20_000, 8, 0.9, RNG.torch())
    counts = torch.bincount(cuts, minlength=9).double() / len(cuts)
    assert counts[0] == 0
    assert counts[8].item() == pytest.approx(0.1, abs=0.01)
    torch.testing.assert_close(counts[1:8], torch.full((7,), 0.9 / 7, dtype=DOUBLE), rtol=0, atol=0.01)
    assert (gan_losses.draw_cuts(50, 8, 0.0, RNG.torch()) == 8).all()


@pytest.mark.parametrize(
    ("recipe", "size", "batch", "expected"),
    [
        ("auto", 64, 32, (16384, 2, 0.0256, 4, 10.0, 0.05)),
        ("auto", 128, 32, (16384, 2, 0.1024, 4, 10.0, 0.05)),
        ("auto", 256, 16, (16384, 2, 0.8192, 4, 5.0, 0.05)),
        ("auto", 512, 8, (32768, 2, 6.5536, 4, 2.5, 0.05)),
        ("paper256", 256, 64, (16384, 8, 1.0, 8, 20.0, None)),
        ("stylegan2", 1024, 32, (32768, 8, 10.0, 4, 10.0, None)),
    ],
)
def test_recipes_have_the_published_numbers(recipe: str, size: int, batch: int, expected: tuple) -> None:
    train = TrainConfig(steps=1, batch=batch)
    s = settle(StyleGAN2Config.model_validate({"recipe": recipe, "train": train}), size)
    found = (s.base, s.depth, round(s.r1, 6), s.group, s.ema_kimg, s.ema_ramp)
    assert found == expected
    assert s.ada_kimg == 500


def test_fine_tuning_moves_p_faster_and_does_not_ramp_the_average(tmp_path: Path) -> None:
    s = settle(StyleGAN2Config(init=tmp_path / "g.safetensors"), 256)
    assert (s.ada_kimg, s.ema_ramp) == (100, None)
    assert settle(StyleGAN2Config(r1=3.0, base=64), 256).r1 == 3.0


def test_lazy_regularisation_corrects_rate_and_betas() -> None:
    parameter = [torch.nn.Parameter(torch.zeros(1))]
    train = TrainConfig(steps=1, lr=0.0025, betas=(0.0, 0.99))
    for every, rate, beta in ((4, 0.002, 0.99**0.8), (16, 0.0025 * 16 / 17, 0.99 ** (16 / 17)), (0, 0.0025, 0.99)):
        group = lazy_adam(parameter, train, every).param_groups[0]
        assert group["lr"] == pytest.approx(rate)
        assert group["betas"] == pytest.approx((0.0, beta))


def test_the_average_ramps_up_with_the_images_seen() -> None:
    s = settle(StyleGAN2Config(), 256)
    assert averaging(s, 16, 10**7) == pytest.approx(0.5 ** (16 / 5000))
    # 5 % of 20,000 images seen are a half-life of 1,000.
    assert averaging(s, 16, 20_000) == pytest.approx(0.5 ** (16 / 1000))
    flat = settle(StyleGAN2Config(recipe="paper256"), 256)
    assert averaging(flat, 64, 64) == pytest.approx(0.5 ** (64 / 20_000))


def test_a_step_moves_g_d_average_and_mean_latent_and_leaves_frozen_layers() -> None:
    one = duel(settings(freeze_d=2))
    before = {part: {k: v.clone() for k, v in net.state_dict().items()} for part, net in _networks(one).items()}
    for number in range(2):
        one.step(number, RNG)
    after = {part: net.state_dict() for part, net in _networks(one).items()}
    same = {part: {k for k, v in values.items() if torch.equal(v, after[part][k])} for part, values in before.items()}
    learnt = {part: {k for k, _ in net.named_parameters()} for part, net in _networks(one).items()}
    assert not same["generator"] & learnt["generator"]
    assert not same["average"] & learnt["average"]
    assert "mapping.w_avg" not in same["generator"] | same["average"]
    first = {"b16.fromrgb.weight", "b16.fromrgb.bias", "b16.conv0.weight", "b16.conv0.bias"}
    # The last bias is in no penalty, but it is in the loss.
    assert same["discriminator"] & learnt["discriminator"] == first
    assert one.mean_path > 0


def _networks(one: Duel) -> dict[str, torch.nn.Module]:
    return {"generator": one.generator, "discriminator": one.discriminator, "average": one.average}


def test_p_rises_while_d_is_sure_of_real_images_and_stays_0_without_augmentation() -> None:
    for augment, expected in ((True, 1.0), (False, 0.0)):
        one = duel(settings(augment=augment))
        with torch.no_grad():
            one.discriminator.b4.out.bias.fill_(50.0)
        for number in range(8):
            one.step(number, RNG)
        assert one.controller.p == expected, "two updates of 16 images at 0.02 kimg, clamped"


@pytest.mark.parametrize("cut", [1, 6, 13])
def test_a_training_that_was_cut_ends_in_the_same_bits(cut: int, tmp_path: Path) -> None:
    config, images = settings(), split("train", 12, 16)
    whole = build(config, 16, 3, RNG)
    fit(config, whole, images, RNG, Log(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        fit(config, build(config, 16, 3, RNG), images, RNG, Stopping(tmp_path / "cut", after=cut))
    resumed = build(config, 16, 3, Rng(77))
    fit(config, resumed, images, RNG, Log(tmp_path / "cut"))
    assert same_state(whole, resumed)
    a, b = (load_file(tmp_path / way / CHECKPOINT) for way in ("whole", "cut"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a), "both networks, the average, both optimisers, the mean path"
    values = [[row[:-1] for row in rows(tmp_path / way / "train.csv")] for way in ("whole", "cut")]
    assert values[0] == values[1], "losses, p and sign of every step; the last column is seconds"


@dataclass
class Stopping(Log):
    """A log that asks to stop when step `after` is done."""

    after: int = 0

    def progress(self, step: int, steps: int, seconds_left: float, text: str = "") -> None:
        if step == self.after:
            self.stop.set()


@pytest.mark.parametrize("cut", [1, 6, 13])
def test_a_checkpoint_brings_back_everything_and_the_next_batch(cut: int, tmp_path: Path) -> None:
    config = settings()
    one = duel(config)
    for number in range(cut):
        one.step(number, RNG)
    one.save(tmp_path / CHECKPOINT, cut)
    other = duel(config)
    assert other.load(tmp_path / CHECKPOINT) == cut
    assert (other.controller.p, other.controller.signs, other.controller.count) == (
        one.controller.p,
        one.controller.signs,
        one.controller.count,
    )
    assert (other.split.rows(cut, 4, RNG.child("data")) == one.split.rows(cut, 4, RNG.child("data"))).all()
    # R1 comes again in step 16.
    for number in range(cut, 18):
        one.step(number, RNG)
        other.step(number, RNG)
    for a, b in zip(_networks(one).values(), _networks(other).values(), strict=True):
        assert same_state(a, b)
    assert one.terms == other.terms


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("truncated", "not a checkpoint of this network"),
        ("shape", "generator.mapping.fc0.weight has shape"),
        ("p", "p = 7"),
        ("step", "step 99 of 18"),
        ("optimiser", "adam_d.0.exp_avg"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(damage: str, words: str, tmp_path: Path) -> None:
    path, one = tmp_path / CHECKPOINT, duel(settings())
    one.step(0, RNG)
    one.save(path, 1)
    tensors, metadata = load_file(path), {"step": "1", "train": one.config.digest(), "p": "0.0", "signs": "0.0"}
    metadata |= {"count": "0", "terms": json.dumps(dict.fromkeys(one.terms, 0.0))}
    if damage == "shape":
        tensors["generator.mapping.fc0.weight"] = torch.zeros(2, 2)
    elif damage == "optimiser":
        tensors["adam_d.0.exp_avg"] = torch.zeros(1)
    else:
        metadata |= {"p": {"p": "7.0"}, "step": {"step": "99"}}.get(damage, {})
    save_file(tensors, path, metadata)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    before = {k: v.clone() for k, v in one.generator.state_dict().items()}
    with pytest.raises(DataError, match=words) as error:
        one.load(path)
    assert "\n" not in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in one.generator.state_dict().items()), "nothing half loaded"


def test_a_loss_that_is_not_finite_ends_the_training_with_one_line(tmp_path: Path) -> None:
    config = settings(train={"lr": 1e30})
    with pytest.raises(CoinbenchError, match=r"or a weight is not finite near step \d+ \(generator .*lower problem"):
        fit(config, build(config, 16, 3, RNG), split("train", 12, 16), RNG, Log(tmp_path))


def test_samples_are_drawn_and_judged_at_intervals_and_the_best_average_is_kept(tmp_path: Path) -> None:
    config = settings(judge_kimg=0.016, train={"steps": 10})
    distances = iter([3.0, 1.0, 2.0])
    log = Log(tmp_path, judge=lambda generator: {"fd_f": next(distances)})
    network = build(config, 16, 3, RNG)
    fit(config, network, split("train", 12, 16), RNG, log)
    judged = [line.split(",") for line in (tmp_path / "judged.csv").read_text().splitlines()]
    assert judged == [["step", "kimg", "fd_f"], ["4", "0.016", "3"], ["8", "0.032", "1"], ["10", "0.04", "2"]]
    assert len(list(tmp_path.glob("samples-*.png"))) == 3
    # Of step 8, not of the end.
    best = load_file(tmp_path / BEST)
    assert best.keys() == {f"G_ema.{name}" for name in network.state_dict()}
    assert not torch.equal(best["G_ema.mapping.fc0.weight"], network.state_dict()["mapping.fc0.weight"]), (
        "step 8, not the end"
    )


def test_what_stays_is_the_average(tmp_path: Path) -> None:
    config, images = settings(train={"steps": 3}), split("train", 12, 16)
    network = build(config, 16, 3, RNG)
    fit(config, network, images, RNG, Log(tmp_path))
    one = duel(config, images)
    for number in range(3):
        one.step(number, RNG)
    assert network.state_dict().keys() == one.average.state_dict().keys()
    for name, value in one.average.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    assert not same_state(one.average, one.generator)


@pytest.mark.parametrize(
    ("changes", "images", "drawn"),
    [
        ({"resolution": 32}, 16, 32),
        ({"resolution": 32, "crop": "wide"}, 20, 32),
        ({}, 20, 32),
        ({"space": "w"}, 16, 16),
    ],
)
def test_images_come_out_at_the_size_of_the_data(changes: dict, images: int, drawn: int) -> None:
    config = settings(**changes)
    assert resolution_of(config, images) == drawn
    network = build(config, images, 3, RNG).eval()
    latents = network.sample(3, RNG)
    assert latents.shape == (3, 1 if config.space == "w" else 2 * (drawn.bit_length() - 2), 6)
    found = network(latents)
    assert found.shape == (3, 3, images, images)
    assert found.abs().max() <= 1


def test_a_wide_generator_is_cut_before_it_is_resized() -> None:
    network = build(settings(resolution=32, crop="wide"), 32, 3, RNG).eval()
    w = network.sample(2, RNG)
    whole = network.synthesis(w.expand(-1, network.styles, -1), "const")
    middle = torch.nn.functional.interpolate(whole[:, :, 4:28], size=(32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(network(w), middle.clamp(-1, 1))


def test_one_latent_for_all_styles_draws_what_equal_latents_draw() -> None:
    one, many = (build(settings(space=space), 16, 3, RNG).eval() for space in ("w", "w+"))
    w = one.sample(2, RNG)
    torch.testing.assert_close(one(w), many(w.expand(-1, many.n_styles, -1)))


def test_samples_are_truncated_towards_the_mean_where_that_is_set() -> None:
    plain, all_of_them, some = (
        build(settings(**changes), 16, 3, RNG).eval()
        for changes in ({}, {"truncation": 0.6}, {"truncation": 0.6, "cutoff": 2})
    )
    for network in (plain, all_of_them, some):
        network.mapping.w_avg.copy_(torch.arange(6.0))
    w, mean = plain.sample(3, RNG), plain.mean_latent()
    torch.testing.assert_close(all_of_them.sample(3, RNG), mean + 0.6 * (w - mean))
    found = some.sample(3, RNG)
    torch.testing.assert_close(found[:, :2], mean + 0.6 * (w - mean)[:, :2])
    assert torch.equal(found[:, 2:], w[:, 2:])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cutoff": 2}, "cutoff=2 has no effect: nothing is truncated"),
        ({"cutoff": 2, "truncation": 0.5, "space": "w"}, "one latent for all styles cannot be cut"),
        ({"truncation": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_truncation_without_effect_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings(**changes)


def test_what_is_judged_while_g_is_trained_is_not_truncated(tmp_path: Path) -> None:
    config = settings(truncation=0.5, train={"steps": 1})
    seen: list[Tensor] = []

    def judge(generator: Any) -> dict[str, float]:
        seen.append(generator.sample(2, RNG))
        return {"fd_f": 1.0}

    network = build(config, 16, 3, RNG)
    fit(config, network, split("train", 12, 16), RNG, Log(tmp_path, judge=judge))
    mean = network.mean_latent()
    torch.testing.assert_close(network.sample(2, RNG), mean + 0.5 * (seen[0] - mean))


def test_training_at_another_resolution_and_on_grey_images(tmp_path: Path) -> None:
    config = settings(train={"steps": 2})
    network = build(config, 20, 1, RNG)
    fit(config, network, make_problem(20, 1).train, RNG, Log(tmp_path))
    assert isinstance(network, StyleGAN2Generator)
    assert network(network.sample(1, RNG)).shape == (1, 1, 20, 20)


def test_a_network_without_channels_is_refused() -> None:
    with pytest.raises(UsageError, match="base=64: leaves no channel at 128 px; set at least 128"):
        build(settings(resolution=128), 128, 3, RNG)


def test_a_wide_generator_learns_images_between_black_bars() -> None:
    one = duel(settings(resolution=32, crop="wide"), split("train", 12, 16))
    images = one._real(np.arange(2))
    assert images.shape == (2, 3, 32, 32)
    assert (images[:, :, :4] == -1).all()
    assert (images[:, :, 28:] == -1).all()
    assert (images[:, :, 4:28] != -1).any()
