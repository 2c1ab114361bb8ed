"""The tables of few concepts and of what becomes of concepts: what stands where, and that nothing is shown twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coinbench import results
from coinbench.reports import figures, gallery
from coinbench.reports.folder import RunFolder, Series, records_of
from coinbench.reports.layout import Table
from coinbench.reports.tables import build_tables
from coinbench.results import Score


def score(metric: str, value: float, spread: float, **fields: Any) -> Score:
    given = {"params": "", "arm": "method", "subject": "all", "n": 9, "unit": "fraction", "higher_is_better": True}
    return Score(
        metric=metric,
        value=value,
        low=value - spread,
        high=value + spread,
        protocol=f"{metric} in [-1, 1]",
        version=1,
        **(given | fields),
    )


def scores(level: float) -> Iterator[Score]:
    yield score("accuracy", level, 0.01)
    for n in (4, 12):
        yield score("topn_accuracy", level * n / 12, 0.01, params=f"N={n}")
        yield score("topn_accuracy", level * n / 24, 0.01, params=f"N={n}", arm="random")
    yield score("auc_ff", level / 2, 0.01)
    yield score("leakage", 1 - level, 0.01, unit="probability", higher_is_better=False)
    yield score("leakage", level, 0.01, unit="probability", higher_is_better=False, arm="concepts")
    for arm in ("method", "permuted"):
        flag = {"params": "flag=dead", "arm": arm, "higher_is_better": False}
        yield score("concept_flags", 0.25, 0.01, **flag)
    yield score("part_locality", level / 4, 0.01)
    yield score("part_locality", 0.1, 0.01, arm="any part")
    yield score("visualisation_fd_f", 9.87 * level, 0.5, unit="distance", higher_is_better=False)


@pytest.fixture(scope="module")
def tables() -> dict[str, Table]:
    frames = []
    for method, level in (("viscoin", 0.9), ("flint", 0.6)):
        given = {"run": "r", "dataset": "d", "method": method, "seed": 0, "variant": "default", "cell": method}
        frames += records_of(results.frame(list(scores(level)), **given, classifier_digest="f"))
    return {table.name: table for table in build_tables(frames)}


def texts(table: Table) -> dict[tuple[str, ...], list[str]]:
    return {row.labels[1:]: table.texts(row) for row in table.rows}


def test_few_concepts_stand_in_per_cent_beside_random_ones(tables: dict[str, Table]) -> None:
    found = texts(tables["few"])
    assert found["top-N accuracy", "N = 4", ""] == ["20.0 [19.0, 21.0]", "30.0 [29.0, 31.0]"]
    assert found["top-N accuracy", "N = 12", "random concepts"] == ["30.0 [29.0, 31.0]", "45.0 [44.0, 46.0]"]
    assert found["AUC-FF", "", ""] == ["30.0 [29.0, 31.0]", "45.0 [44.0, 46.0]"]
    assert [row.labels[2] for row in tables["few"].rows][:2] == ["N = 4", "N = 12"]


def test_concepts_have_a_table_that_knows_the_better_end(tables: dict[str, Table]) -> None:
    table = tables["concepts"]
    found = texts(table)
    assert found["g moved by Φ′ (%)", "", ""] == ["40.0 [39.0, 41.0]", "10.0 [9.0, 11.0]"]
    assert found["g moved by Φ′ (%)", "", "Φ swapped"][0].startswith("60.0")
    assert found["flagged concepts (%)", "flag = dead", ""][0].startswith("25.0")
    assert ("flagged concepts (%)", "flag = dead", "permuted") not in found
    assert found["visualisation FD-f", "", ""] == ["5.92 [5.42, 6.42]", "8.88 [8.38, 9.38]"]
    leak = next(row for row in table.rows if row.metric == "leakage" and row.arm == "method")
    assert leak.higher_is_better is False
    control = next(row for row in table.rows if row.arm == "concepts")
    assert control.higher_is_better is None
    assert set(table.marks(control)) == {""}


def test_true_parts_have_a_table(tables: dict[str, Table]) -> None:
    found = texts(tables["parts"])
    assert found["change inside its part (%)", "", ""] == ["15.0 [14.0, 16.0]", "22.5 [21.5, 23.5]"]
    assert found["change inside its part (%)", "", "any part"] == ["10.0 [9.0, 11.0]"] * 2


def test_what_has_a_table_is_in_no_other(tables: dict[str, Table]) -> None:
    assert "others" not in tables
    shown = [row.metric for table in tables.values() for row in table.rows]
    assert {"topn_accuracy", "leakage", "concept_flags", "visualisation_fd_f"} <= set(shown)
    protocols = " ".join(tables["concepts"].protocols)
    assert "FD-f [" in protocols
    assert "leakage in [-1, 1]" in protocols


def test_the_curves_of_few_concepts_are_drawn_beside_random_ones(tmp_path: Path) -> None:
    given = {"run": "r", "dataset": "d", "method": "flint", "seed": 0, "variant": "default", "cell": "c"}
    records = records_of(results.frame(list(scores(0.6)), **given, classifier_digest="f"))
    run = RunFolder(tmp_path, tuple(records), (), ())
    images = gallery.read_all(run, [Series("flint", "default", "FLINT")])
    (plot,) = [plot for plot in figures.plots(run, images) if plot.kind == "few"]
    (axes,) = [axes for axes in plot.draw().axes if axes.lines]
    lines = {line.get_linestyle(): np.asarray(line.get_xydata()) for line in axes.lines}
    np.testing.assert_allclose(lines["-"], [[4, 0.2], [12, 0.6]])
    np.testing.assert_allclose(lines["--"], [[4, 0.1], [12, 0.3]])


def test_a_run_without_these_numbers_has_the_five_tables() -> None:
    given = {"run": "r", "dataset": "d", "method": "flint", "seed": 0, "variant": "default", "cell": "c"}
    table = results.frame([score("accuracy", 0.5, 0.1)], **given, classifier_digest="f")
    assert len(build_tables(records_of(table))) == 5
