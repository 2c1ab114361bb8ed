"""A synthetic run folder with the layout of a real one: scores of every metric and arm, cells, images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from coinbench import resampled, results
from coinbench.results import Resamples, Score

CONCEPTS = 12
LEVEL = {"random": 0.1, "flint": 0.4, "flaem": 0.3, "viscoin": 0.9, "senn": 0.6}
"""How good a method's made-up numbers are, in [0, 1]."""
OWN_F = {"flaem"}
"""Methods that were trained with a classifier of their own."""
CLASSES = ("crow", "finch & tit", "gull_100%", "heron")


def score(metric: str, value: float, spread: float, **fields: Any) -> Score:
    """One row with an interval of `value` ± `spread` and a protocol that LaTeX would trip over.

    Its resamples are those of images that have nothing in common with another method's.
    """
    given: dict[str, Any] = (
        {"params": "", "arm": "method", "subject": "all", "n": 1000, "unit": "fraction"}
        | {"higher_is_better": True, "version": 1}
        | fields
    )
    source = np.random.default_rng(int(abs(value) * 1e9) % 2**32)
    return Score(
        resamples=Resamples(source.normal(value, spread / 1.96, 200), "images", 0),
        metric=metric,
        value=value,
        low=value - spread,
        high=value + spread,
        protocol=f"test split, g(x̃)_ĉ & r_{{k,c}} ≥ 0, 100 % of images; {metric} in [-1, 1]",
        **given,
    )


def cell_scores(method: str, dataset: str, seed: int) -> Iterator[Score]:
    """All rows of one cell, a pure function of its names."""
    rng = np.random.default_rng([seed, len(method), len(dataset)])
    level = LEVEL[method] + 0.02 * rng.normal()
    for name, value in (("accuracy", 0.8 + 0.15 * level), ("agreement", 0.7 + 0.25 * level)):
        yield score(name, value, 0.01)
        yield score(name, 0.25 + 0.01 * level * (name == "agreement"), 0.0, arm="chance")
    yield score("accuracy_f", 0.95, 0.01)
    if method in OWN_F:
        yield score("accuracy_own_f", 0.9, 0.01)
        yield score("agreement_own_f", 0.97, 0.01)
    yield score("accuracy_reconstruction", 0.3 + 0.4 * level, 0.02)
    yield score("probability_reconstruction", 0.25 + 0.4 * level, 0.02)
    for name, base in (("mse", 0.08), ("pd_p", 0.5), ("fd_p", 40.0), ("fd_f", 9.0)):
        lower = {"unit": "raw", "higher_is_better": False}
        yield score(name, base * (1.4 - level), base / 30, **lower)
        yield score(name, base * 2, base / 30, arm="mean image", **lower)
        if name.startswith("fd"):
            yield score(name, base / 20, base / 99, arm="train images", **lower)
    for tau in (0.1, 0.2, 0.4):
        value = 0.35 * level * math.exp(-3 * tau)
        yield score("faithfulness", value, 0.02, params=f"tau={tau:g}")
        yield score("faithfulness", value / 6, 0.01, params=f"tau={tau:g}", arm="random")
        yield score("faithfulness_mean", value * 1.1, 0.02, params=f"tau={tau:g}")
        yield score("faithfulness_iqr", 0.2, 0.02, params=f"tau={tau:g}", higher_is_better=None)
        removed = {"unit": "concepts", "higher_is_better": None, "params": f"tau={tau:g}"}
        yield score("removed", 6 - 8 * tau, 0.2, **removed)
    yield from _consistency(level, rng)
    for threshold in (0.7, 0.5, 0.2):
        given = {"params": f"t={threshold:g}", "unit": "concepts", "higher_is_better": None}
        yield score("sparsity", (3 + level) * (1 - threshold), 0.3, n=4, **given)
        yield score("sparsity", 1.5 * (1 - threshold), 0.3, n=4, arm="permuted", **given)


def _consistency(level: float, rng: np.random.Generator) -> Iterator[Score]:
    arms = {"method": 0.55 + 0.4 * level, "permuted": 0.5, "untrained": 0.72}
    for factor in (2, 3):
        params = f"lambda={factor}"
        for arm, mean in arms.items():
            width = 0.03 if arm == "permuted" else 0.12
            scores = np.clip(rng.normal(mean + 0.02 * factor, width, CONCEPTS), 0.3, 1.0)
            for k, value in enumerate(scores):
                yield score("consistency", value, 0.02, n=200, params=params, arm=arm, subject=f"concept:{k}")
            yield score("consistency", scores.mean(), 0.02, n=CONCEPTS, params=params, arm=arm)
        for arm in ("method", "untrained"):
            shift = 0.1 * level * factor if arm == "method" else 0.004
            given = {"params": params, "arm": arm, "higher_is_better": None, "unit": "ratio"}
            yield score("consistency_shift", shift, 0.01, n=CONCEPTS, **given)
    for arm in ("method", "untrained"):
        yield score("dead_concepts", 0.1, 0.05, n=CONCEPTS, arm=arm, higher_is_better=False)


def tile(kind: int, amount: float, size: int = 32) -> np.ndarray:
    """A body of the colour of class `kind` and a cap of size `amount` before a sky, uint8 [size, size, 3]."""
    y, x = np.mgrid[0:size, 0:size] / size
    image = np.stack([0.55 + 0.2 * y, 0.75 - 0.1 * y, 0.95 - 0.3 * y], axis=-1)
    colours = np.array([[0.2, 0.2, 0.25], [0.85, 0.5, 0.2], [0.9, 0.9, 0.9], [0.4, 0.5, 0.65]])
    image[((x - 0.5) / 0.28) ** 2 + ((y - 0.6) / 0.2) ** 2 < 1] = colours[kind % 4]
    image[((x - 0.72) / 0.13) ** 2 + ((y - 0.4) / 0.13) ** 2 < 1] = colours[kind % 4] * 0.8
    cap = ((x - 0.72) / 0.13) ** 2 + ((y - 0.33) / 0.03) ** 2 < amount
    image[cap & (y < 0.42)] = [0.8, 0.1, 0.15]
    return (image.clip(0, 1) * 255).astype(np.uint8)


def _strip(path: Path, tiles: Sequence[np.ndarray]) -> None:
    Image.fromarray(np.concatenate(tiles, axis=1)).save(path)


def save_images(folder: Path, seed: int, pairs: int = 5, sources: int = 3, singles: int = 4) -> None:
    """Write images/ of one cell."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 4, 10)
    originals = [tile(kind, rng.uniform(0, 2)) for kind in kinds]
    _strip(folder / "originals.png", originals)
    _strip(folder / "reconstructions.png", [(t * 0.8 + 30).astype(np.uint8) for t in originals])
    sheet = []
    for row in range(pairs):
        images = []
        for column in range(sources):
            name = f"sheet-{row:02d}-{column}.png"
            _strip(folder / name, [tile(row, amount) for amount in (1.0, 0.0, 1.0, 4.0)])
            images.append({"index": 17 + column, "pooled": 1.2, "tiles": name})
        pair = {"class": CLASSES[row % 4], "concept": row, "relevance": 0.93 - 0.1 * row}
        sheet.append({**pair, "images": images})
    local = []
    for number in range(singles):
        name, concepts = f"local-{number:02d}.png", [3, 0, 5][: 1 + number % 3]
        tiles = [tile(number, 1.0), *(tile(number, a + c / 9) for c in concepts for a in (0.0, 1.0, 4.0))]
        _strip(folder / name, tiles)
        shown = [{"concept": c, "relevance": r} for c, r in zip(concepts, (1.0, 0.4, -0.3), strict=False)]
        named = {"label": CLASSES[number % 4], "predicted": CLASSES[0 if number == 1 else number % 4]}
        local.append({"index": 40 + number, **named, "concepts": shown, "tiles": name})
    names = [CLASSES[kind] for kind in kinds]
    strips = {"originals": "originals.png", "reconstructions": "reconstructions.png"}
    described = {"tile": [32, 32], "index": list(range(10)), "labels": names, "predicted": names}
    index = {"reconstructions": {**strips, **described}, "lambdas": [0, 1, 4], "sheet": sheet, "local": local}
    (folder / "index.json").write_text(json.dumps(index))


def _training_log(path: Path) -> None:
    steps = np.arange(0, 1000, 25)
    columns = {"step": steps, "seconds": steps / 50, "total": 2 * np.exp(-steps / 300) + 0.3}
    columns |= {"output": np.exp(-steps / 200) + 0.05, "reconstruction": 1 / (1 + steps / 100)}
    pd.DataFrame(columns).to_csv(path, index=False)


def make_run(
    folder: Path,
    methods: Sequence[str] = ("flint", "viscoin"),
    datasets: Sequence[str] = ("birds", "digits"),
    seeds: Sequence[int] = (0, 1, 2),
    variants: Sequence[str] = ("default",),
    images: bool = True,
    failed: Sequence[tuple[str, str, int]] = (),
    without: Sequence[str] = (),
    data: Mapping[str, str] | None = None,
    fingerprint: str = "d0d0",
) -> Path:
    """Write a run folder; `failed` cells end in an error.json, metrics in `without` have no rows.

    `data` holds the title of a data set for each variant; each title's images have a fingerprint of their own.
    """
    frames, drawn = [], {}
    order = [(d, m, s, v) for d in datasets for m in methods for s in seeds for v in variants]
    for dataset, method, seed, variant in order:
        digest = f"{dataset}-{method}-{seed}-{variant}".replace(" ", "")
        cell = folder / "cells" / digest
        cell.mkdir(parents=True)
        config = {"dataset": dataset, "method": {"name": method}, "seed": seed, "variant": variant}
        config |= {
            "data": {"title": (data or {}).get(variant)},
            "data_fingerprint": fingerprint + (variant if data else ""),
        }
        (cell / "cell.json").write_text(json.dumps(config))
        if (method, dataset, seed) in failed:
            error = {"error": "loss is not a number at step 120 <total>", "exit": 1}
            (cell / "error.json").write_text(json.dumps(error))
            continue
        provenance = (
            {"git": "0123abc", "device": "cpu", "seconds": {"fit": 61.2, "evaluate": 12.5}}
            | {"versions": {"coinbench": "0.1.0", "torch": "2.11.0"}}
            | {"fingerprints": {"data": "d0d0", "classifier": "f1f1"}}
        )
        (cell / "provenance.json").write_text(json.dumps(provenance))
        _training_log(cell / "train.csv")
        if images:
            save_images(cell / "images", seed)
        rows = [row for row in cell_scores(method, dataset, seed) if row.metric not in without]
        drawn |= resampled.of_scores(rows, digest)
        keys = {"dataset": dataset, "method": method, "seed": seed, "variant": variant}
        frames.append(results.frame(rows, run="fake", classifier_digest=f"f-{dataset}", cell=digest, **keys))
    config = {"command": "coinbench run --methods " + ",".join(methods), "experiments": {}, "seeds": list(seeds)}
    (folder / "config.json").write_text(json.dumps(config))
    results.write(pd.concat(frames, ignore_index=True), folder)
    resampled.write(drawn, folder)
    return folder
