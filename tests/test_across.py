"""Numbers of several seeds: made when rows are collected, for cells of one method alone, and kept by `score`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny

from coinbench import records, reports, results, scoring
from coinbench.files import write_json
from coinbench.metrics.concept_flags import ConceptFlags
from coinbench.plan import Planned
from coinbench.run import collect


def planned(out: Path, seed: int, pooled: np.ndarray, **changes: Any) -> Planned:
    """A measured cell with stored activations."""
    cell = tiny.make_cell(seed=seed, metrics=("concept_flags",), **changes)
    name = f"cell-{seed}-{cell.variant}"
    made = Planned(cell, name, out / "cells" / name)
    found = {"index": np.arange(200, 200 + len(pooled)), "class": np.arange(len(pooled)) % 3, "pooled": pooled}
    records.write(found, made.folder / "samples" / "concept_flags.parquet")
    given = {"run": "", "dataset": "tiny", "method": "viscoin", "seed": seed, "variant": cell.variant, "cell": ""}
    rows = ConceptFlags.score(found, cell.evaluation)
    results.write(results.frame(rows, **given, classifier_digest="f"), made.folder)
    write_json(made.folder / "unavailable.json", {})
    write_json(made.folder / "cell.json", cell.model_dump(mode="json"))
    return made


@pytest.fixture
def cells(tmp_path: Path) -> list[Planned]:
    pooled = np.random.default_rng(0).random((30, 4)).astype(np.float32)
    alone = planned(tmp_path, 0, pooled, variant="alone")
    return [planned(tmp_path, 1, pooled[:, ::-1].copy()), planned(tmp_path, 0, pooled), alone]


def stability(out: Path) -> pd.DataFrame:
    table = results.read(out)
    return table.loc[table["metric"] == "concept_stability"]


def test_seeds_of_one_method_are_compared(cells: list[Planned], tmp_path: Path) -> None:
    assert collect(cells, tmp_path) == {}
    rows = stability(tmp_path)
    assert sorted(zip(rows["cell"], rows["arm"], strict=True)) == [
        (f"cell-{seed}-default", arm) for seed in (0, 1) for arm in ("method", "permuted")
    ]
    method = rows[rows["arm"] == "method"]
    np.testing.assert_allclose(method["value"], 1.0, atol=1e-6)
    assert set(method["n"]) == {30}
    assert set(rows["run"]) == {tmp_path.name}
    assert set(rows["classifier_digest"]) == {"f"}
    assert (rows.loc[rows["arm"] == "permuted", "value"] < 0.7).all()


def test_the_order_of_cells_does_not_show(cells: list[Planned], tmp_path: Path) -> None:
    collect(cells, tmp_path)
    before = (tmp_path / "results.csv").read_bytes()
    collect(cells[::-1], tmp_path)
    assert (tmp_path / "results.csv").read_bytes() == before


def test_a_cell_without_records_is_left_out(cells: list[Planned], tmp_path: Path) -> None:
    (cells[0].folder / "samples" / "concept_flags.parquet").unlink()
    collect(cells, tmp_path)
    assert stability(tmp_path).empty


def test_score_keeps_what_it_cannot_make(cells: list[Planned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect(cells, tmp_path)
    before = stability(tmp_path)
    monkeypatch.setattr(reports, "report", lambda out: None)
    scoring.rescore(tmp_path, "concept_flags", 200)
    pd.testing.assert_frame_equal(
        stability(tmp_path).reset_index(drop=True), before.reset_index(drop=True), check_dtype=False
    )
