"""A run folder whose cells have the settings of a preset, with numbers as given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from coinbench import resampled, results
from coinbench.reports.folder import read_folder
from coinbench.reports.paper_run import PaperRun
from coinbench.results import Resamples, Score
from coinbench.sweeps import chosen, tree_of

Numbers = Mapping[tuple[str, str], tuple[float, float]]
"""(metric, params) -> (value, half of its interval)."""


@cache
def settings(dataset: str, method: str, *sets: str) -> str:
    return json.dumps(tree_of(dataset, method, sets))


class Folder:
    """A run folder in the making."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames: list[pd.DataFrame] = []
        self.drawn: dict[resampled.Place, Resamples] = {}

    def add(
        self,
        dataset: str,
        method: str,
        numbers: Numbers,
        seed: int = 0,
        variant: str = "default",
        sets: tuple[str, ...] = (),
        preset: str = "cub200",
        unavailable: Mapping[str, str] | None = None,
        arm: str = "method",
    ) -> Folder:
        """Add a cell with the settings of a preset."""
        digest = f"{dataset}-{method}-{variant}-{seed}"
        cell = self.path / "cells" / digest
        cell.mkdir(parents=True)
        tree = json.loads(settings(preset, method, *sets))
        tree |= {"dataset": dataset, "seed": seed, "variant": variant, "data_fingerprint": "d0"}
        (cell / "cell.json").write_text(json.dumps(tree))
        (cell / "unavailable.json").write_text(json.dumps(unavailable or {}))
        scores = [
            Score(
                metric=metric,
                params=params,
                arm=arm,
                subject="all",
                value=value,
                low=value - half,
                high=value + half,
                n=100,
                resamples=_resamples(value, half),
                unit="raw",
                higher_is_better=True,
                version=1,
                protocol="test split, g(x̃)_ĉ & r_{k,c} ≥ 0, 100 % of images",
            )
            for (metric, params), (value, half) in numbers.items()
        ]
        self.drawn |= resampled.of_scores(scores, digest)
        given = {"dataset": dataset, "method": method, "seed": seed, "variant": variant}
        self.frames.append(results.frame(scores, run="r", classifier_digest="f", cell=digest, **given))
        return self

    def read(self) -> PaperRun:
        """Write what is there and read it as published tables do."""
        results.write(pd.concat(self.frames, ignore_index=True), self.path)
        resampled.write(self.drawn, self.path)
        return PaperRun(read_folder(self.path))


def ablated(path: Path, seeds: int = 2) -> PaperRun:
    """γ of 0, 0.5, 1 and 2.5 on birds: faithfulness rises with it, PD-p falls, MSE goes up and down by seed."""
    folder = Folder(path)
    (sweep,) = chosen(["table14"], [], json.loads(settings("birds", "viscoin")))
    for seed in range(seeds):
        for place, point in enumerate(sweep.points):
            moved = (-1) ** (place + seed)
            numbers = {
                ("faithfulness", "tau=0.2"): (0.1 + 0.1 * place + 0.01 * seed, 0.01),
                ("mse", ""): (0.05 + 0.01 * moved, 0.001),
                ("pd_p", ""): (0.5 - 0.1 * place + 0.001 * seed, 0.01),
                ("fd_f", ""): (3.0 + place + 0.01 * seed, 0.01),
            }
            folder.add("birds", "viscoin", numbers, seed, point.variant, point.changes, preset="birds")
    return folder.read()


def _resamples(value: float, half: float) -> Resamples:
    """Those of images that have nothing in common with another number's."""
    source = np.random.default_rng(int(abs(value) * 1e9) % 2**32)
    return Resamples(source.normal(value, half / 1.96, 200), "images", 0)
