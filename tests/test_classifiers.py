"""f: torchvision's networks give torchvision's logits, take its weights, and are trained like any other."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import Cli, in_process, one_line
from official_files import serve
from torch import Tensor, nn
from torchvision import models

from coinbench import fetch, published_weights, registry
from coinbench.check import check
from coinbench.errors import DataError, UsageError
from coinbench.networks.torchvision_nets import BUILDERS, MEAN, STD, ImageNetResNet, TorchvisionNet, take
from coinbench.published_weights import read_state_dict, require
from coinbench.rng import Rng

SIZE = 64
THEIRS: dict[str, Callable[..., nn.Module]] = {
    "resnet50": models.resnet50,
    "resnet101": models.resnet101,
    "squeezenet1_1": models.squeezenet1_1,
    "vit_b_16": functools.partial(models.vit_b_16, image_size=SIZE),
}
# Torchvision's ViT is 350 MB: one test.
QUICK = ("resnet50", "squeezenet1_1")


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COINBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "_TRIES", 0)
    return functools.partial(in_process, capfd)


def ours(name: str, n_classes: int = 7, size: int = SIZE) -> TorchvisionNet:
    torch.manual_seed(1)
    return BUILDERS[name](n_classes, 3, size).eval()


def theirs(name: str, n_classes: int = 7) -> nn.Module:
    torch.manual_seed(2)
    network = THEIRS[name](num_classes=n_classes).eval()
    # Statistics that matter.
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.get_buffer("running_mean"), 0, 0.1)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2.0)
    return network


def saved(network: nn.Module, path: Path, **how: bool) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path, **how)
    return path


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_logits_are_torchvisions(name: str, tmp_path: Path) -> None:
    reference = theirs(name)
    network = ours(name)
    take(network, saved(reference, tmp_path / "w.pth"))
    images = torch.rand(2, 3, SIZE, SIZE) * 2 - 1
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    given = ((images + 1) / 2 - mean) / std
    expected = _before_the_rectifier(reference, given) if name == "squeezenet1_1" else reference(given)
    features = network(images)
    torch.testing.assert_close(features.logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network.head(features.embedding), features.logits)
    torch.testing.assert_close(network.embed(images), features.maps[0].mean((2, 3)))


def _before_the_rectifier(reference: nn.Module, given: Tensor) -> Tensor:
    assert isinstance(reference, models.SqueezeNet)
    last = reference.classifier[1]
    return last(reference.features(given)).mean((2, 3))


@torch.no_grad()
def test_taps_have_the_shapes_of_the_paper() -> None:
    images = torch.zeros(1, 3, 256, 256)
    network = ours("resnet50", size=256)
    assert isinstance(network, ImageNetResNet)
    assert [list(tapped.shape[1:]) for tapped in network.taps(images)] == [[512, 32, 32], [1024, 16, 16], [2048, 8, 8]]
    assert network(images).embedding.shape == (1, 2048)
    deep = network.taps(images)[-1]
    network.tap = "last"
    last = network.taps(images)[-1]
    torch.testing.assert_close(last, network.layer4[-1](deep))
    assert [list(tapped.shape[1:]) for tapped in ours("squeezenet1_1", size=256).taps(images)] == [
        [256, 31, 31],
        [384, 15, 15],
        [512, 15, 15],
    ]


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("older", [False, True])
def test_the_head_of_another_task_is_left_out(name: str, older: bool, tmp_path: Path) -> None:
    reference = theirs(name, 1000)
    path = saved(reference, tmp_path / "w.pth", _use_new_zipfile_serialization=not older)
    network = ours(name)
    head = {k: v.clone() for k, v in network.state_dict().items() if k.startswith(network.head_name)}
    take(network, path)
    state, given = network.state_dict(), reference.state_dict()
    assert head
    for key, value in state.items():
        expected = head[key] if key in head else given.get(key, value)
        assert torch.equal(value, expected), key


def test_the_published_vit_is_older_than_its_names(tmp_path: Path) -> None:
    reference = theirs("vit_b_16")
    older = {
        key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): value
        for key, value in reference.state_dict().items()
    }
    assert older.keys() != reference.state_dict().keys()
    torch.save(older, tmp_path / "w.pth")
    network = ours("vit_b_16")
    take(network, tmp_path / "w.pth")
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in reference.state_dict().items())
    torch.save(theirs("squeezenet1_1").state_dict(), tmp_path / "s.pth")
    with pytest.raises(DataError, match=r"lacks 'encoder\.pos_embedding' as ViT-B/16 has it"):
        take(network, tmp_path / "s.pth")


def test_positions_of_a_vit_are_interpolated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = models.vit_b_16(image_size=96, num_classes=5)
    network = ours("vit_b_16", 5)
    take(network, saved(reference, tmp_path / "w.pth"))
    assert network.state_dict()["encoder.pos_embedding"].shape == (1, 17, 768)
    assert torch.equal(network.state_dict()["encoder.pos_embedding"][:, 0], reference.encoder.pos_embedding[:, 0])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop("features.3.squeeze.weight"), r"lacks 'features\.3\.squeeze\.weight'"),
        (lambda state: state.update(more=torch.zeros(1)), r"has foreign tensors \(more\)"),
        (lambda state: state.update({"features.0.bias": torch.zeros(3)}), r"'features\.0\.bias' has shape \[3\]"),
        (lambda state: state.update({"features.0.bias": "text"}), "holds what is no tensor at 'features.0.bias'"),
    ],
    ids=["missing", "foreign", "shape", "no tensor"],
)
def test_weights_of_another_network_are_refused(change: Callable, told: str, tmp_path: Path) -> None:
    state = OrderedDict(theirs("squeezenet1_1").state_dict())
    change(state)
    torch.save(state, tmp_path / "w.pth")
    network = ours("squeezenet1_1")
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(DataError, match=told):
        take(network, tmp_path / "w.pth")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_a_file_that_would_run_something_is_refused(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[Callable, tuple[str, ...]]:
            return os.system, (f"touch {ran}",)

    torch.save({"features.0.weight": Hostile()}, tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"w\.pth: asks for"):
        read_state_dict(tmp_path / "w.pth")
    assert not ran.exists()
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(DataError, match=r"text\.pth: is a damaged zip file"):
        read_state_dict(tmp_path / "text.pth")


def test_what_a_network_cannot_read_is_one_line() -> None:
    with pytest.raises(UsageError, match="read RGB images, not 1 channel"):
        BUILDERS["resnet50"](7, 1, 64)
    with pytest.raises(UsageError, match="needs 64 pixels a side or more, not 32"):
        BUILDERS["resnet50"](7, 3, 32)
    with pytest.raises(UsageError, match=r"data\.size=72 is no multiple of its patches, 16"):
        BUILDERS["vit_b_16"](7, 3, 72)


def test_only_the_head_learns_where_that_is_asked_for() -> None:
    spec = registry.CLASSIFIERS.load("squeezenet1_1")
    config = spec.config(init="scratch", train_all=False)
    network = spec.build(config, 7, 3, SIZE, Rng(0))
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {"classifier.1.weight", "classifier.1.bias"}
    network = BUILDERS["resnet50"](7, 3, SIZE)
    assert isinstance(network, ImageNetResNet)
    network.learning(False)
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network(torch.rand(4, 3, SIZE, SIZE) * 2 - 1)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items()), "no statistics move"
    assert network.fc.training
    network.learning(True)
    network.train()
    assert network.bn1.training


# Without the larger ones of the same families: `coinbench check` takes a minute for each.
@pytest.mark.parametrize("name", sorted(set(registry.CLASSIFIERS.names()) - {"resnet101", "vit_b_16"}))
def test_every_classifier_keeps_the_laws(name: str) -> None:
    report = check(name)
    assert report.passed, report.text()


# --- published weights


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    """SqueezeNet as if this were what torchvision publishes."""
    content = saved(theirs("squeezenet1_1", 1000), tmp_path / "s.pth").read_bytes()
    entry = published_weights.FILES["squeezenet1_1"]
    remote = replace(entry.remote, digests=(("sha256", hashlib.sha256(content).hexdigest()[:8]),))
    files = {**published_weights.FILES, "squeezenet1_1": replace(entry, remote=remote)}
    monkeypatch.setattr(published_weights, "FILES", files)
    return content


def _at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    files = dict(published_weights.FILES)
    entry = files["squeezenet1_1"]
    files["squeezenet1_1"] = replace(entry, remote=replace(entry.remote, url=f"{url}/w.pth"))
    monkeypatch.setattr(published_weights, "FILES", files)


def test_weights_are_fetched_listed_verified_and_found(
    published: bytes, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="coinbench weights fetch squeezenet1_1"):
        require("squeezenet1_1", None, tmp_path / "cache" / "weights", "problem.classifier.init")
    with serve({"w.pth": published}) as served:
        _at(monkeypatch, served.url)
        assert cli("weights", "fetch", "squeezenet1_1", "--quiet").code == 0
        assert cli("weights", "fetch", "squeezenet1_1", "--quiet").code == 0
        assert len(served.asked) == 1
    path = require("squeezenet1_1", None, tmp_path / "cache" / "weights", "problem.classifier.init")
    assert path.read_bytes() == published
    digest = hashlib.sha256(published).hexdigest()[:8]
    told = f"squeezenet1_1: {path}: as published (sha256 begins with {digest}, all that its publisher gives)\n"
    assert cli("weights", "verify", "--quiet").out == told
    listed = cli("weights", "list").out
    assert "squeezenet1_1  here" in listed
    assert "inception      not here" in listed
    path.write_bytes(published[:-1] + b"x")
    one_line(cli("weights", "verify", "--quiet"), 4, "sha256 is", "delete it and fetch it again")


def test_wrong_weights_are_not_kept(
    published: bytes, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve({"w.pth": published[::-1]}) as served:
        _at(monkeypatch, served.url)
        one_line(cli("weights", "fetch", "squeezenet1_1", "--quiet"), 4, "not the published squeezenet1_1-b8a52dc0.pth")
    assert not list((tmp_path / "cache" / "weights").glob("*.pth"))
    one_line(cli("weights", "verify", "squeezenet1_1"), 4, "not there", "coinbench weights fetch squeezenet1_1")
    one_line(cli("weights", "fetch", "squeeznet1_1"), 2, "did you mean 'squeezenet1_1'")
    one_line(cli("weights", "fetch"), 2, "name what to fetch")


def test_a_run_without_its_weights_ends_before_anything_is_trained(cli: Cli, tmp_path: Path) -> None:
    words = ("-m", "flint", "-d", "birds", "--out", tmp_path / "out", "--set", "data.size=64", "--quiet")
    ran = cli("run", *words, "--set", "problem.classifier.net=squeezenet1_1", "--set", "problem.generator.net=beta_vae")
    one_line(ran, 4, "coinbench weights fetch squeezenet1_1", "problem.classifier.init=scratch")
    assert not (tmp_path / "cache" / "data").exists()
