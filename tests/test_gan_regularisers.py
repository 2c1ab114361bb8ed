"""StyleGAN2's regularisers as training uses them: their weights, and gradients of gradients against differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_gan_training import RNG, duel, settings
from torch import Tensor, nn

from coinbench.generators import ada, gan_losses
from coinbench.networks import fir
from coinbench.networks.stylegan2 import StyleGAN2, SynthesisLayer, ToRGB
from coinbench.networks.stylegan2_discriminator import Discriminator
from coinbench.networks.stylegan2_layers import Convolution, FullyConnected
from coinbench.rng import Rng, seeded

DOUBLE = torch.float64


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# What each step descends


def descended(monkeypatch: pytest.MonkeyPatch, numbers: int, **changes: Any) -> dict[int, list[tuple[str, float, Any]]]:
    """Return what each step gave to the optimisers: of whom, at which rate, and the loss by the penalties' values."""
    one = duel(settings(**changes))
    found: dict[int, list[tuple[str, float, Any]]] = {}
    seen: dict[str, float] = {}

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def note(*given: Any) -> Any:
            result = function(*given)
            seen[name] = float((result[0] if isinstance(result, tuple) else result).detach())
            return result

        return note

    for name in ("generator_loss", "discriminator_loss", "r1", "path_penalty"):
        monkeypatch.setattr(gan_losses, name, noted(name, getattr(gan_losses, name)))
    descend = one._descend

    def record(adam: torch.optim.Adam, parameters: list[nn.Parameter], loss: Tensor) -> None:
        ((name, value),) = seen.items()
        seen.clear()
        who = "G" if adam is one.adam_g else "D"
        assert parameters is (one.of_g if who == "G" else one.of_d)
        found.setdefault(number, []).append((f"{who} {name}", adam.param_groups[0]["lr"], float(loss.detach()) / value))
        descend(adam, parameters, loss)

    monkeypatch.setattr(one, "_descend", record)
    for number in range(numbers):
        one.step(number, RNG)
    return found


def test_penalties_come_at_their_steps_with_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """γ · 16 of R1 in every 16th step, weight · 4 of path lengths in every 4th (StyleGAN2, appendix B)."""
    gamma, weight = 3.7, 1.3
    found = descended(monkeypatch, 18, r1=gamma, path=weight)
    g, d = 2e-3 * 4 / 5, 2e-3 * 16 / 17
    losses = [("G generator_loss", g, 1.0), ("D discriminator_loss", d, 1.0)]
    path, r1 = ("G path_penalty", g, 4 * weight), ("D r1", d, 16 * gamma)
    for number, steps in found.items():
        expected = losses[:1] + [path] * (number % 4 == 0) + losses[1:] + [r1] * (number % 16 == 0)
        assert [step[0] for step in steps] == [step[0] for step in expected], number
        for one, other in zip(steps, expected, strict=True):
            assert one[1:] == pytest.approx(other[1:], rel=1e-6), number
    assert [len(found[number]) for number in (0, 1, 4, 16)] == [4, 2, 3, 4]


def test_the_weights_are_the_recipes_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    # γ = 0.0002 · 16² / 4 (auto), weight 2 (StyleGAN2).
    found = descended(monkeypatch, 1, r1=None, path=2.0)
    assert [step[2] for step in found[0]] == pytest.approx([1, 2 * 4, 1, 0.0128 * 16], rel=1e-6)


def test_without_penalties_nothing_is_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    found = descended(monkeypatch, 5, r1=0.0, path=0.0, train={"schedule": "linear", "steps": 10})
    for number, steps in found.items():
        rate = 2e-3 * (1 - number / 10)
        assert [step[:2] for step in steps] == [
            ("G generator_loss", pytest.approx(rate)),
            ("D discriminator_loss", pytest.approx(rate)),
        ]


@pytest.mark.parametrize(("bad", "moves"), [(float("nan"), False), (float("inf"), True)])
def test_a_gradient_that_is_not_finite_is_cut_in_every_precision(bad: float, moves: bool) -> None:
    one = duel(settings())
    before = [p.clone() for p in one.of_g]
    one._descend(one.adam_g, one.of_g, torch.stack([(p * bad).sum() for p in one.of_g]).sum())
    assert all(bool(p.isfinite().all()) for p in one.of_g)
    assert all(torch.equal(p, q) != moves for p, q in zip(one.of_g, before, strict=True))


# Gradients of gradients


FILTERS: dict[str, Callable[[Tensor], Tensor]] = {
    "blur": lambda x: fir.blur(x, 1, gain=4.0),
    "blur for half the pixels": lambda x: fir.blur(x, 2),
    "halve": fir.halve,
    "double": fir.double,
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_differentiable_twice(name: str) -> None:
    x = rand(1, 2, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(FILTERS[name], x)
    assert torch.autograd.gradgradcheck(lambda x: FILTERS[name](x) ** 3, x)


LAYERS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "fully connected": lambda: (FullyConnected(3, 2, rectified=True, rate=0.01), (rand(2, 3),)),
    "D": lambda: (Convolution(2, 2, 3, clamp=1.0), (rand(1, 2, 4, 4),)),
    "D to half the pixels": lambda: (Convolution(2, 2, 3, down=True, clamp=1.0), (rand(1, 2, 4, 4),)),
    "D's shortcut": lambda: (Convolution(2, 2, 1, down=True, bias=False, rectified=False), (rand(1, 2, 4, 4),)),
    "G": lambda: (SynthesisLayer(2, 2, 3, 4, up=False, clamp=1.0), (rand(2, 2, 4, 4), rand(2, 3))),
    "G to twice the pixels": lambda: (SynthesisLayer(2, 2, 3, 4, up=True, clamp=1.0), (rand(2, 2, 2, 2), rand(2, 3))),
    "G's image": lambda: (ToRGB(2, 3, 3, clamp=None), (rand(2, 2, 2, 2), rand(2, 3))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_differentiable_twice_in_inputs_and_parameters(name: str) -> None:
    """Their rectifier works in place: the gradient of a gradient must not see what it left."""
    with seeded(Rng(2)):
        layer, inputs = LAYERS[name]()
    layer.double()
    parameters = dict(layer.named_parameters())

    def call(*given: Tensor) -> Tensor:
        values = dict(zip(parameters, given[len(inputs) :], strict=True))
        return torch.func.functional_call(layer, values, given[: len(inputs)]) ** 2

    given = tuple(value.detach().requires_grad_() for value in (*inputs, *parameters.values()))
    assert torch.autograd.gradcheck(call, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, given, fast_mode=True)


def slopes(network: nn.Module, penalty: Callable[[], Tensor], step: float = 1e-6) -> dict[str, tuple[float, float]]:
    """Return the slope of a penalty along a direction of each parameter: by autograd, and by differences."""
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(penalty(), list(parameters.values()), allow_unused=True)
    found = {}
    for seed, ((name, parameter), gradient) in enumerate(zip(parameters.items(), gradients, strict=True)):
        direction = rand(*parameter.shape, seed=seed)
        direction /= direction.norm()
        ends = []
        for sign in (1, -1):
            parameter.data += sign * step * direction
            ends.append(float(penalty().detach()))
            parameter.data -= sign * step * direction
        exact = 0.0 if gradient is None else float((gradient * direction).sum())
        found[name] = exact, (ends[0] - ends[1]) / (2 * step)
    return found


def agree(found: dict[str, tuple[float, float]], rel: float) -> None:
    scale = max(abs(exact) for exact, _ in found.values())
    for name, (exact, measured) in found.items():
        assert exact == pytest.approx(measured, rel=rel, abs=1e-7 * scale), name
    assert sum(exact != 0 for exact, _ in found.values()) > len(found) / 2


@pytest.mark.parametrize("p", [0.0, 0.9])
def test_the_gradient_of_r1_through_ada_by_finite_differences(p: float) -> None:
    with seeded(Rng(4)):
        d = Discriminator(size=16, base=64, most=4, group=2).double()
        for name, parameter in d.named_parameters():
            if name.endswith("bias"):
                parameter.data.normal_(std=0.3)
    x = (rand(2, 3, 16, 16) / 2).clamp(-1, 1).requires_grad_()

    def penalty() -> Tensor:
        return gan_losses.r1(d(ada.augment(x, p, torch.Generator().manual_seed(1))), x)

    agree(slopes(d, penalty), rel=1e-4)


def test_the_gradient_of_the_path_penalty_by_finite_differences() -> None:
    with seeded(Rng(6)):
        g = StyleGAN2(size=16, z_dim=3, w_dim=3, depth=2, base=64, most=4).double()
        for name, parameter in g.named_parameters():
            if name.endswith(("bias", "noise_strength")) and "affine" not in name:
                parameter.data.normal_(std=0.3)
    z, noise, mean = rand(2, 3), rand(2, 3, 16, 16), torch.tensor(0.5, dtype=DOUBLE)

    def penalty() -> Tensor:
        w = g.mapping(z)[:, None].expand(-1, g.n_styles, -1)
        return gan_losses.path_penalty(gan_losses.path_lengths(g.synthesis(w, "const"), w, noise), mean)[0]

    agree(slopes(g, penalty), rel=1e-4)
