"""A run folder whose cells have the settings of a preset, with numbers as given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pandas as pd

from coinbench import results
from coinbench.reports.folder import read_folder
from coinbench.reports.paper_run import PaperRun
from coinbench.results import Score
from coinbench.sweeps import tree_of

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
                unit="raw",
                higher_is_better=True,
                version=1,
                protocol="test split, g(x̃)_ĉ & r_{k,c} ≥ 0, 100 % of images",
            )
            for (metric, params), (value, half) in numbers.items()
        ]
        given = {"dataset": dataset, "method": method, "seed": seed, "variant": variant}
        self.frames.append(results.frame(scores, run="r", classifier_digest="f", cell=digest, **given))
        return self

    def read(self) -> PaperRun:
        """Write what is there and read it as published tables do."""
        results.write(pd.concat(self.frames, ignore_index=True), self.path)
        return PaperRun(read_folder(self.path))
