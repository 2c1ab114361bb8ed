"""The parts of the benchmarks that measure nothing: lines, tables, page, trimming, counting."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import full_size
import performance_page
import pytest
import torch
from collect import trimmed
from passes import counted
from tiny import make_problem, method_config

from coinbench import plugins, registry
from coinbench.plan import Request, resolve
from coinbench.rng import Rng
from coinbench.trace import Trace

X = (125, 250, 500, 1000, 2000)


def scaling(law=lambda x: 3 + 0.02 * x):
    points = {"images": X, "concepts": (8, 16, 32), "seeds": (1, 2)}
    return {
        "command": "python benchmarks/scaling.py",
        "commit": "abc1234",
        "device": "1 thread of 2 CPU cores",
        "versions": {"python": "3.12", "torch": "2.11", "numpy": "2.3", "scikit-learn": "1.7"},
        "method": "viscoin",
        "settings": {"lambdas": [2.0], "bootstrap": 100},
        "fixed": {"images": "K = 24", "concepts": "64 test images", "seeds": "cells of 12 steps"},
        "samples": {axis: {str(x): [law(x) - 0.01, law(x), law(x) + 0.5] for x in xs} for axis, xs in points.items()},
    }


@pytest.mark.parametrize(
    ("law", "linear"),
    [
        (lambda x: 0.5 * x, True),
        (lambda x: 40 + 0.02 * x, True),
        (lambda x: x**1.3, False),
        (lambda x: x**0.5, False),
        (lambda x: 5 + 1e-5 * x**2, False),
    ],
    ids=["proportional", "large constant part", "superlinear", "root", "square"],
)
def test_only_a_straight_line_is_called_linear(law, linear):
    assert performance_page.fit(X, [law(x) for x in X]).linear is linear


def test_the_page_holds_the_fit_of_the_medians_and_every_figure(tmp_path):
    rows = [{"group": "g", "name": "one pass", "median": 0.5, "iqr": 0.01, "ratio": 1.0, "extra_info": {"K": 4}}]
    benchmarks = {"command": "c", "device": "d", "commit": "e", "benchmarks": rows}
    for name, content in (("scaling", scaling()), ("benchmarks", benchmarks)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    performance_page.write_page(tmp_path, tmp_path / "docs")
    text = (tmp_path / "docs" / "performance.md").read_text(encoding="utf-8")
    assert "One more test image costs 20 ms; the constant part is 3.00 s" in text
    assert "**The cost is not linear.**" not in text
    assert "| test images | 2000 | 43.00 | 42.99 | 43.50 | 3 |" in text
    assert "| g | one pass | 500 | 10 | 1.00 | K 4 |" in text
    for axis in ("images", "concepts", "seeds"):
        assert f"(images/cost_{axis}.png)" in text
        assert (tmp_path / "docs" / "images" / f"cost_{axis}.png").read_bytes().startswith(b"\x89PNG")


def test_a_cost_that_bends_is_said_to_bend():
    assert performance_page.page(scaling(lambda x: 0.01 * x**1.5), None).count("**The cost is not linear.**") >= 1
    below = performance_page.page(scaling(lambda x: x**0.4), None)
    assert below.count("bends below a straight line") >= 1
    assert "**The cost is not linear.**" not in below


def test_ratios_are_to_the_fastest_of_the_group():
    rows = [
        {"name": f"bench[{n}]", "group": g, "stats": {"median": t, "iqr": 0.0, "rounds": 3}, "extra_info": {}}
        for n, g, t in (("slow", "a", 3.0), ("fast", "a", 2.0), ("alone", "b", 9.0))
    ]
    found = {row["name"]: row["ratio"] for row in trimmed({"benchmarks": rows})}
    assert found == {"slow": 1.5, "fast": 1.0, "alone": 1.0}


@pytest.mark.parametrize(
    ("file", "dataset", "title"), [("cub50-64.yaml", "cub200", "CUB-50"), ("faces64.yaml", "imagefolder", "pictures")]
)
def test_an_experiment_at_64_px_reads_everything_from_one_file(file: str, dataset: str, title: str) -> None:
    path = Path(full_size.__file__).with_name(file)
    given = ("data.root=pictures", "problem.classifier.init=f.safetensors")
    config = resolve(Request(config=path, sets=given))
    experiment = config.experiments[dataset]["default"]
    assert tuple(experiment.methods) == ("viscoin", "flint", "flaem", "random")
    # Nothing that is a download.
    assert not {"lpips_vgg", "lpips_alex", "inception"} & set(config.metrics)
    assert experiment.problem.perceptual.net == "random"
    assert (experiment.data.title, experiment.data.size, experiment.evaluation.limit) == (title, 64, 300)
    generator: Any = experiment.problem.generator
    assert (experiment.problem.classifier.net, generator.net, generator.init) == (
        "squeezenet1_1",
        "stylegan2",
        "scratch",
    )


@pytest.mark.parametrize(("name", "K"), [("cub200", 256), ("celebahq", 64), ("stanfordcars", 256)])
def test_the_full_size_keeps_the_papers_networks(name: str, K: int) -> None:
    weights = {"problem.generator.init": Path("G.safetensors"), "problem.perceptual.weights": Path("vgg16.pth")}
    words = full_size.command(name, Path("root"), Path("out"), weights)
    sets = tuple(words[i + 1] for i, word in enumerate(words) if word == "--set")
    experiment = resolve(Request(methods=full_size.METHODS, datasets=name, sets=sets)).experiments[name]["default"]
    assert (experiment.data.size, experiment.problem.classifier.net) == (256, "resnet50")
    assert experiment.problem.perceptual.net == "lpips_vgg"
    told = {method: config.model_dump() for method, config in experiment.methods.items()}
    assert {config["K"] for config in told.values()} == {K}
    assert (told["viscoin"]["channels"], told["viscoin"]["side"], told["flaem"]["base"]) == (512, 3, "resnet101")


@torch.no_grad()
def test_a_trace_runs_f_once_on_an_image_and_once_on_its_reconstruction():
    problem = make_problem()
    coin = registry.METHODS.load("viscoin").build(method_config("viscoin"), problem, Rng(0)).eval()
    batch = next(problem.test.batches(4))
    with counted(coin, problem) as count:
        trace = Trace(coin, problem, batch)
        found = trace.logits_of_reconstruction, trace.logits, trace.features, trace.features_of_reconstruction
    assert count == Counter(f=8, encode=8, decode=4)
    # What f remembers ends with the trace's own passes, and changes no number.
    assert torch.equal(found[0], coin(trace.reconstruction))
    assert torch.equal(found[1], coin(batch.images))
    assert "forward" not in vars(problem.classifier)


def test_the_styled_vae_is_a_plug_in_that_can_be_named() -> None:
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "styled_vae.py"
    assert list(plugins.read(path)["generators"]) == ["styled_vae"]
