"""Records and results come back as they were written, whatever the order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from coinbench import records, results
from coinbench.errors import DataError
from coinbench.results import COLUMNS, Score


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    written = {
        "index": np.arange(7),
        "value": np.array([0.1, np.nan, np.inf, -0.0, 1e-300, 3, 4]),
        "feature": dice.normal(size=(7, 3)).astype(np.float32),
        "arm": np.array(["method", "random", "ü", "", "a", "b", "c"]),
        "dead": dice.random(7) < 0.5,
    }
    path = tmp_path / "samples" / "x.parquet"
    records.write(written, path)
    found = records.read(path)
    assert list(found) == list(written)
    for name, column in written.items():
        np.testing.assert_array_equal(found[name], column)
        assert found[name].shape == column.shape
    assert found["feature"].dtype == np.float32
    assert found["index"].dtype == np.int64


def test_records_without_rows_and_views_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    records.write({"index": np.arange(0), "feature": np.zeros((0, 2))}, path)
    assert records.read(path)["feature"].shape == (0, 2)
    turned = np.arange(6.0).reshape(2, 3).T
    records.write({"feature": turned}, path)
    np.testing.assert_array_equal(records.read(path)["feature"], turned)


def test_broken_records_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    records.write({"index": np.arange(9)}, path)
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"nothing"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="not readable as records") as caught:
            records.read(path)
        one_line(caught.value)
    with pytest.raises(DataError, match="not readable as records"):
        records.read(tmp_path / "none.parquet")


def a_score(**changes: Any) -> Score:
    given: dict[str, Any] = {"metric": "mse", "params": "", "arm": "method", "subject": "all", "value": 1.0, "n": 5}
    given |= {"low": np.nan, "high": 0.5, "unit": "fraction", "higher_is_better": True, "version": 1}
    return Score(**{**given, "protocol": 'quotes ", commas and r_{k,c} ≥ 0', **changes})


def table() -> pd.DataFrame:
    parts = []
    for method in ("viscoin", "flint"):
        for seed in (10, 2):
            scores = [
                a_score(
                    metric=metric,
                    params=params,
                    arm=arm,
                    subject=subject,
                    value=0.1 * seed + 1 / 3,
                    n=0 if subject != "all" else 5,
                    higher_is_better=better,
                )
                for metric, params, better in (
                    ("mse", "", False),
                    ("faithfulness", "tau=0.1", True),
                    ("dead", "", None),
                )
                for arm in ("method", "random")
                for subject in ("all", "concept:3")
            ]
            given = {"run": "r", "dataset": "birds", "method": method, "seed": seed, "variant": "default"}
            parts.append(results.frame(scores, **given, classifier_digest="f", cell=f"{method}{seed}"))
    return pd.concat(parts, ignore_index=True)


def test_results_round_trip_sorted_with_the_columns_of_the_design(tmp_path: Path) -> None:
    results.write(table(), tmp_path)
    found = results.read(tmp_path)
    assert tuple(found.columns) == COLUMNS
    assert list(dict.fromkeys(zip(found["method"], found["seed"], strict=True))) == [
        ("flint", 2),
        ("flint", 10),
        ("viscoin", 2),
        ("viscoin", 10),
    ]
    first = found[found["cell"] == "flint2"]
    assert list(dict.fromkeys(first["metric"])) == ["dead", "faithfulness", "mse"]
    assert list(first["arm"])[:3] == ["method", "method", "random"]
    assert set(found.loc[found["metric"] == "dead", "higher_is_better"]) == {None}
    assert np.isnan(found["low"].to_numpy()).all()
    assert max(found["value"]) == 0.1 * 10 + 1 / 3
    csv = pd.read_csv(tmp_path / "results.csv", keep_default_na=False, na_values={"low": [""]})
    assert tuple(csv.columns) == COLUMNS
    np.testing.assert_array_equal(csv["value"], found["value"])
    assert list(csv["protocol"]) == list(found["protocol"])


def test_results_do_not_depend_on_the_order_in_which_cells_end(tmp_path: Path) -> None:
    rows = table()
    results.write(rows, tmp_path / "a")
    for seed in range(3):
        results.write(rows.sample(frac=1, random_state=seed), tmp_path / "b")
        for name in ("results.csv", "results.parquet"):
            assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_a_score_needs_every_column_and_a_count() -> None:
    score = a_score()
    with pytest.raises(AssertionError, match="provenance"):
        results.frame([score], run="r")
    with pytest.raises(ValueError, match="must not be negative"):
        replace(score, n=-1)


def test_results_that_are_missing_or_broken_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no results\.parquet there"):
        results.read(tmp_path)
    path = tmp_path / "results.parquet"
    results.write(table(), tmp_path)
    content = path.read_bytes()
    for broken in (content[:200], b"", json.dumps({}).encode()):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="not readable") as caught:
            results.read(tmp_path)
        one_line(caught.value)
    table().drop(columns="arm").to_parquet(path)
    with pytest.raises(DataError, match="column 'arm' is missing"):
        results.read(tmp_path)


def test_results_of_a_version_without_companions_are_read(tmp_path: Path) -> None:
    table().drop(columns="read_with").to_parquet(tmp_path / "results.parquet", index=False)
    assert set(results.read(tmp_path)["read_with"]) == {""}
