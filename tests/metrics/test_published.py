"""LPIPS, FID and KID against the packages that define them, on one file of random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lpips
import numpy as np
import pytest
import random_weights
import torch
import torch_fidelity
import weight_files
from planted import value
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from coinbench.bank import build_bank
from coinbench.cache import Cache
from coinbench.concepts import Concepts
from coinbench.config import EvaluationConfig
from coinbench.conformance.tiny import TinyCoIN, make_problem
from coinbench.errors import DataError, Unavailable
from coinbench.metric import Evaluation, Metric, Records
from coinbench.metrics import inception as metric_of_inception
from coinbench.metrics.frechet import compact
from coinbench.metrics.inception import InceptionDistances, kernel_distance
from coinbench.metrics.mse import mean_image
from coinbench.networks.inception import Inception
from coinbench.networks.lpips import LEAST, LPIPS
from coinbench.problem import Batch, Problem, to_uint8
from coinbench.published_weights import TRUNKS, find, known
from coinbench.registry import METRICS
from coinbench.results import Score
from coinbench.rng import Rng
from coinbench.trace import Trace

SIZE = 32


@dataclass(frozen=True)
class Files:
    """A file of random weights for each name."""

    folder: Path

    def of(self, name: str) -> Path:
        return self.folder / f"{name}.pth"

    def found(self, name: str):
        return find(name, self.of(name), self.folder, "evaluation.weights")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    made = Files(tmp_path_factory.mktemp("weights"))
    for name in TRUNKS.values():
        random_weights.trunk(name, made.of(name))
    random_weights.inception(made.of("inception"))
    return made


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem(size=SIZE, train=12, test=10)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inception on smaller images, for what does not depend on their size: a tenth of the time."""
    monkeypatch.setattr(FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", 91)


@torch.no_grad()
def measure(
    metric: type[Metric],
    problem: Problem,
    folder: Path,
    weights: dict[str, Path],
    batch: int = 7,
    arrange: Callable[[list[Batch]], list[Batch]] = list,
    coin: TinyCoIN | None = None,
    **settings: int,
) -> tuple[Records, list[Score]]:
    config = EvaluationConfig.model_validate({"bootstrap": 100, "batch": batch, "weights": weights, **settings})
    coin = coin or TinyCoIN(problem, support=True)
    bank = build_bank(coin, problem, problem.train.batches(16))
    evaluation = Evaluation(
        coin, problem, config, Rng(0).child("evaluation"), bank, lambda: coin, cache=Cache(folder / "cache")
    )
    running = metric(evaluation)
    for part in arrange(list(problem.test.batches(batch))):
        running.update(Trace(coin, problem, part))
    records = running.records()
    return records, metric.score(records, config)


def reconstructions(problem: Problem) -> tuple[Tensor, Tensor]:
    (batch,) = problem.test.batches(64)
    coin = TinyCoIN(problem, support=True)
    return batch.images, coin.decode(coin.encode(batch.images))


def reference(net: str, path: Path) -> lpips.LPIPS:
    """The package's own network with the tensors of a file."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net=net, pnet_rand=True, pretrained=False, verbose=False)
    heads = torch.load(Path(lpips.__file__).parent / f"weights/v0.1/{net}.pth", map_location="cpu")
    features = torch.load(path)
    trunk = {key: features[f"features.{key.split('.', 1)[1]}"] for key in network.net.state_dict()}
    network.net.load_state_dict(trunk, assign=True)
    network.load_state_dict(heads, strict=False, assign=True)
    return network


class Returns(TinyCoIN):
    """Φ′ is the image; it is what is shown, or an image of one grey."""

    grey: float | None = None

    def encode(self, images: Tensor) -> Concepts:
        return replace(super().encode(images), support=images.flatten(1))

    def decode(self, concepts: Concepts) -> Tensor:
        assert concepts.support is not None
        shown = concepts.support.unflatten(1, self.image)
        return shown if self.grey is None else torch.full_like(shown, self.grey)


@pytest.mark.parametrize("net", TRUNKS)
def test_lpips_of_a_copy_is_nothing_and_of_the_mean_image_its_control(
    net: str, files: Files, problem: Problem, tmp_path: Path
) -> None:
    weights, own = {TRUNKS[net]: files.of(TRUNKS[net])}, f"pd_{net.removeprefix('lpips_')}_file"
    _, scores = measure(METRICS.load(net), problem, tmp_path, weights, coin=Returns(problem, support=True))
    assert value(scores, own) == 0
    assert value(scores, own, "mean image") > 1e-3
    grey = Returns(problem, support=True)
    grey.grey = 0.25
    flat = replace(problem.train, pixels=np.full_like(problem.train.pixels, round(1.25 * 127.5)))
    _, scores = measure(METRICS.load(net), replace(problem, train=flat), tmp_path, weights, coin=grey)
    assert value(scores, own) == pytest.approx(value(scores, own, "mean image"), rel=1e-2)


@pytest.mark.parametrize("foreign", ["", "a file"])
def test_fid_and_kid_of_two_planted_points(foreign: str) -> None:
    # All pictures of a set have one feature vector: Gaussians without width, and a kernel of three values.
    u, v, n = np.full(64, 0.5), np.full(64, 0.5), 20
    v[:16] += 2.0
    sets = {"real": u, "method": v, "mean image": u, "train images": u}
    count = {"mean image": 1}
    records = {
        "arm": np.repeat(list(sets), [count.get(arm, n) for arm in sets]),
        "index": np.concatenate([np.arange(count.get(arm, n)) for arm in sets]),
        "features": np.concatenate([np.tile(f, (count.get(arm, n), 1)) for arm, f in sets.items()]).astype(np.float32),
    }
    records["weights"] = np.full(len(records["arm"]), foreign)
    scores = InceptionDistances.score(records, EvaluationConfig.model_validate({"bootstrap": 100}))
    fid, kid = ("fd_inception_file", "kd_inception_file") if foreign else ("fid", "kid")
    assert value(scores, fid) == pytest.approx(16 * 2.0**2, rel=1e-6)
    kernel = [(float(a @ b) / len(u) + 1) ** 3 for a, b in ((u, u), (v, v), (u, v))]
    assert value(scores, kid) == pytest.approx(kernel[0] + kernel[1] - 2 * kernel[2], rel=1e-5)
    assert value(scores, fid, "train images") == pytest.approx(0, abs=1e-6)


def test_pictures_that_are_their_sources_have_no_distance(files: Files, tmp_path: Path, quick: None) -> None:
    few = make_problem(size=SIZE, train=12, test=3)
    weights = {"inception": files.of("inception")}
    coin = Returns(few, support=True)
    _, scores = measure(METRICS.load("visualisation_fid"), few, tmp_path, weights, coin=coin, visualisation_pairs=2)
    assert value(scores, "visualisation_fd_inception_file") == pytest.approx(0, abs=1e-3)
    assert value(scores, "visualisation_fd_inception_file", "train images") > 1


@pytest.mark.parametrize("net", TRUNKS)
@torch.no_grad()
def test_lpips_is_the_packages(net: str, files: Files, problem: Problem, tmp_path: Path) -> None:
    name = TRUNKS[net]
    records, scores = measure(METRICS.load(net), problem, tmp_path, {name: files.of(name)})
    images, shown = reconstructions(problem)
    theirs = reference(net.removeprefix("lpips_"), files.of(name))
    expected = theirs(images, shown).flatten().numpy()
    assert expected.min() > 1e-3
    np.testing.assert_allclose(records["value"][records["arm"] == "method"], expected, rtol=1e-5)
    own = f"pd_{net.removeprefix('lpips_')}_file"
    assert value(scores, own) == pytest.approx(expected.mean(), rel=1e-5)
    null = theirs(images, mean_image(problem.train).expand_as(images)).mean().item()
    assert value(scores, own, "mean image") == pytest.approx(null, rel=1e-5)


class _Images(Dataset):
    """What torch-fidelity reads."""

    def __init__(self, images: Tensor) -> None:
        self.pixels = torch.from_numpy(to_uint8(images)).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> Tensor:
        return self.pixels[row]


@torch.no_grad()
def test_fid_and_kid_are_torch_fidelitys(files: Files, tmp_path: Path) -> None:
    problem = make_problem(size=SIZE, train=3, test=5)
    records, scores = measure(InceptionDistances, problem, tmp_path, {"inception": files.of("inception")})
    images, shown = reconstructions(problem)
    theirs = torch_fidelity.calculate_metrics(
        input1=_Images(images),
        input2=_Images(shown),
        fid=True,
        kid=True,
        kid_subset_size=len(images),
        kid_subsets=1,
        feature_extractor_weights_path=str(files.of("inception")),
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        batch_size=4,
    )
    expected = theirs[torch_fidelity.KEY_METRIC_FID]
    assert expected > 1
    assert value(scores, "fd_inception_file") == pytest.approx(expected, rel=1e-4)
    real, method = (records["features"][records["arm"] == arm].astype(np.float64) for arm in ("real", "method"))
    whole = kernel_distance(real, method, 2048)
    assert whole == pytest.approx(theirs[torch_fidelity.KEY_METRIC_KID_MEAN], rel=1e-4)
    # Subsets are unbiased for the whole, up to the pairs x, x̃ of one image.
    (kid,) = [s for s in scores if s.metric == "kd_inception_file" and s.arm == "method"]
    assert kid.low < whole < kid.high


def test_numbers_do_not_depend_on_batches(files: Files, problem: Problem, tmp_path: Path, quick: None) -> None:
    for name in (*TRUNKS, "inception"):
        weights = {key: files.of(key) for key in METRICS.load(name).needs}
        tables = []
        for batch in (1, 7, 64):
            folder = tmp_path / f"{name}{batch}"
            tables.append(measure(METRICS.load(name), problem, folder, weights, batch, lambda b: b[::-1])[1])
        for table in tables[1:]:
            assert [(s.metric, s.arm, s.n, s.protocol) for s in table] == [
                (s.metric, s.arm, s.n, s.protocol) for s in tables[0]
            ]
            found, expected = ([(s.value, s.low, s.high) for s in one] for one in (table, tables[0]))
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_features_of_the_images_are_measured_once(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    weights = {"inception": files.of("inception")}
    few = make_problem(size=SIZE, train=12, test=4)
    first, scores = measure(InceptionDistances, few, tmp_path, weights)
    seen: list[int] = []
    forward = Inception.forward
    monkeypatch.setattr(Inception, "forward", lambda self, images: seen.append(len(images)) or forward(self, images))
    again, _ = measure(InceptionDistances, few, tmp_path, weights)
    # The mean image and the four reconstructions.
    assert sum(seen) == 5
    assert all(np.array_equal(again[key], first[key]) for key in first)
    assert {score.n for score in scores} == {4}
    # Other pixels of the same index, or another file, are measured anew.
    seen.clear()
    other = make_problem(size=SIZE, train=12, test=4)
    other.test.pixels[0, 0, 0, 0] ^= 128
    measure(InceptionDistances, other, tmp_path, weights)
    assert sum(seen) == 9


def test_the_published_names_are_for_the_published_weights(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    weights = {"alexnet": files.of("alexnet"), "inception": files.of("inception")}
    few = make_problem(size=SIZE, train=4, test=4)
    names = {"lpips_alex": {"lpips_alex"}, "inception": {"fid", "kid"}}
    names["visualisation_fid"] = {"visualisation_fid"}
    for metric, genuine in names.items():
        for row in measure(METRICS.load(metric), few, tmp_path, weights)[1]:
            assert row.metric not in genuine
            assert "not the published" in row.protocol
            assert "sha256" in row.protocol
    for name in weights:
        weight_files.publish(monkeypatch, name, files.of(name))
    for metric, genuine in names.items():
        found = measure(METRICS.load(metric), few, tmp_path, weights)[1]
        assert {row.metric for row in found} == genuine
        assert not any("not the published" in row.protocol for row in found)
        assert all("n < 2048" in row.protocol for row in found if row.metric == "fid")


@pytest.mark.parametrize("metric", ["lpips_alex", "inception", "visualisation_fid"])
def test_without_weights_a_metric_cannot_be_made(metric: str, problem: Problem, tmp_path: Path) -> None:
    (name,) = METRICS.load(metric).needs
    with pytest.raises(Unavailable, match=f"coinbench weights fetch {name}"):
        measure(METRICS.load(metric), problem, tmp_path, {})
    folder = tmp_path / "cache" / "weights"
    folder.mkdir(parents=True)
    (folder / known(name).remote.name).write_bytes(b"something else")
    with pytest.raises(Unavailable, match=r"sha256 is .* delete it and fetch it again"):
        measure(METRICS.load(metric), problem, tmp_path, {})


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.full((2, 3, SIZE, SIZE), 200.0), r"images in \[-1, 1\], got values from 200"),
        (torch.zeros((2, 3, SIZE, SIZE), dtype=torch.uint8), r"float images \[B, 3, H, W\], got torch.uint8"),
        (torch.zeros(2, 1, SIZE, SIZE), r"float images \[B, 3, H, W\]"),
        (torch.zeros(3, SIZE, SIZE), r"float images \[B, 3, H, W\]"),
        (torch.zeros(2, 3, 15, 15), r"pixels a side or more, got \[2, 3, 15, 15\]"),
    ],
    ids=["range", "dtype", "channels", "no batch", "size"],
)
def test_what_does_not_fit_is_refused(images: Tensor, told: str, files: Files) -> None:
    networks: list[Any] = [LPIPS(net, files.found(name)) for net, name in TRUNKS.items()]
    networks.append(Inception(files.found("inception")))
    for network in networks:
        with pytest.raises(ValueError, match=told):
            network(images)


def test_the_least_sizes_are_the_least(files: Files) -> None:
    for net, least in LEAST.items():
        network = LPIPS(net, files.found(TRUNKS[net]))
        maps = network(torch.zeros(1, 3, least, least))
        assert all(x.numel() for x in maps)
        with pytest.raises(ValueError, match="one size"):
            network.distance(maps, network(torch.zeros(1, 3, 64, 64)))
        network.least = 0
        with pytest.raises(RuntimeError):
            network(torch.zeros(1, 3, least - 1, least - 1))


def test_a_black_image_has_a_gradient(files: Files) -> None:
    # All channels of its features can be 0, where the package's own gradient is NaN.
    network = LPIPS("lpips_squeeze", files.found("squeezenet1_1"))
    dead = torch.zeros(1, 64, 2, 2, requires_grad=True)

    class Dead(nn.Module):
        def forward(self, images: Tensor) -> list[Tensor]:
            return [dead]

    network.network.add_module("net", Dead())
    (unit,) = network(torch.zeros(1, 3, SIZE, SIZE))
    unit.sum().backward()
    assert dead.grad is not None
    assert bool(dead.grad.isfinite().all())


@pytest.mark.parametrize("name", ["alexnet", "inception"])
def test_a_file_of_another_network_is_refused(name: str, files: Files) -> None:
    other = "vgg16" if name == "inception" else "squeezenet1_1"
    found = files.found(other)
    with pytest.raises(DataError, match=rf"{other}\.pth: .*; give .* weights of"):
        Inception(found) if name == "inception" else LPIPS("lpips_alex", found)


def test_few_images_in_the_basis_of_their_span() -> None:
    dice = np.random.default_rng(0)
    a, b = dice.normal(size=(5, 40)), dice.normal(size=(6, 40)) + 1
    small = compact(a, b)
    assert small[0].shape == (5, 11)
    whole = metric_of_inception.frechet(*(metric_of_inception.statistics(x) for x in (a, b)))
    assert metric_of_inception.frechet(*(metric_of_inception.statistics(x) for x in small)) == pytest.approx(whole)
