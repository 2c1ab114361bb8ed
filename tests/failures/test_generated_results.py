"""Generated damage to the files of a finished run: the report of the rest, or one line and exit 1, 2 or 4.

`report` and `score` end with 0 or 4, `run` with 0, 2 (config.json) or 4; no finished cell is lost.
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from commands import files
from hypothesis import strategies as st
from oracle import answered, edits, for_each, generated, spoil_json, tree_edits
from PIL import Image
from small_run import SmallRun, bring_to_end, make_small_run, words

from coinbench.executors.local import LocalExecutor
from coinbench.reports import drawing

TREES = (
    "config.json",
    "plan.json",
    "cell.json",
    "provenance.json",
    "images/index.json",
    "unavailable.json",
    "seconds.json",
)
TABLES = (
    "results.parquet",
    "cell/results.parquet",
    *(f"samples/{name}.parquet" for name in ("accuracy", "mse", "sparsity")),
)
OTHERS = (
    "results.csv",
    "train.csv",
    "images/originals.png",
    "images/sheet-00-0.png",
    "weights.safetensors",
    "report.html",
)
ODD_COLUMNS = (
    *("text", "", None, float("nan"), float("inf"), -float("inf"), 1e308, -1e-320, 0, -1, 2**62, True, b"\xff", [1.0]),
    *("$\\frac$", "größe 鳥", "\x1b[31m\n", "x" * 3000, "../..", pd.Timestamp("2001-01-01"), 1 + 0j),
)


@st.composite
def table_edits(draw: st.DrawFn) -> Any:
    """A change of a table: a column, some rows, or the order of things."""
    how = draw(st.sampled_from(["column", "column", "cells", "drop", "none", "twice", "rename", "shuffle", "type"]))
    pick, value = draw(st.integers(0, 30)), draw(st.sampled_from(range(len(ODD_COLUMNS))))

    def edited(table: pd.DataFrame) -> pd.DataFrame:
        name = table.columns[pick % len(table.columns)]
        odd = ODD_COLUMNS[value]
        if how == "column":
            return table.assign(**{name: [odd] * len(table)})
        if how == "cells":
            rows = [odd if row % 3 == pick % 3 else old for row, old in enumerate(table[name])]
            return table.assign(**{name: rows})
        if how == "drop":
            return table.drop(columns=name)
        if how == "none":
            return table.iloc[: pick % 3]
        if how == "twice":
            return pd.concat([table, table], ignore_index=True)
        if how == "rename":
            return table.rename(columns={name: "more"})
        if how == "shuffle":
            return table.iloc[::-1].rename(columns={name: table.columns[0], table.columns[0]: name})
        return table.assign(**{name: table[name].astype(str)})

    return edited


def spoil_table(path: Path, edit: Any) -> None:
    try:
        edit(pd.read_parquet(path)).to_parquet(path)
    except Exception:  # what Parquet cannot hold cannot be found in one either
        path.write_bytes(b"PAR1")


CASE = st.tuples(
    st.one_of(
        st.tuples(st.sampled_from(TREES), tree_edits().map(lambda edit: lambda path: spoil_json(path, edit))),
        st.tuples(st.sampled_from(TABLES), table_edits().map(lambda edit: lambda path: spoil_table(path, edit))),
        st.tuples(
            st.sampled_from((*TREES, *TABLES, *OTHERS)),
            edits().map(lambda edit: lambda path: path.write_bytes(edit(path.read_bytes()))),
        ),
        st.tuples(st.sampled_from((*TREES, *TABLES, *OTHERS)), st.just(Path.unlink)),
    ),
    st.sampled_from(["report", "report", "score", "run"]),
    st.integers(0, 7).map(lambda die: die == 7),
)
CODES = {"report": {0, 4}, "score": {0, 4}, "run": {0, 2, 4}}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return make_small_run(tmp_path_factory.mktemp("results"))


def _blank(plot: drawing.Plot, folder: Path, draw: bool) -> list[Path]:
    """Draw a figure, if asked to, and write a blank one: true ones take seconds, and tests/reports writes them."""
    folder.mkdir(exist_ok=True)
    if draw:
        with drawing.style():
            plot.draw()
    path = folder / f"{plot.name}.png"
    Image.new("RGB", (40, 20)).save(path)
    return [path]


@generated("result files")
def test_a_generated_result_file(
    count: int, small: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(LocalExecutor, "run", lambda self, planned, display: bring_to_end(planned, small.cache))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def check(given: tuple[tuple[str, Any], str, bool]) -> None:
        (name, spoil), command, draw = given
        monkeypatch.setattr(drawing, "save", partial(_blank, draw=draw))
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(small.out, out)
        cell = out / "cells" / small.cell.name
        at_top = name in ("config.json", "plan.json", "results.parquet", "results.csv", "report.html")
        path = out / name if at_top else cell / name.removeprefix("cell/")
        spoil(path)
        before = files(out / "cells")
        more = (*words(), "--cache", small.cache, "--out", out, "--quiet") if command == "run" else (out,)
        ran = answered(capfd, (command, *more), CODES[command], path.name)
        after = files(out / "cells")
        assert before.keys() <= after.keys()
        other = {name: data for name, data in before.items() if not name.startswith(cell.name)}
        assert {name: after[name] for name in other} == other, "the other cell was touched"
        if ran.code == 0:
            assert (out / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")

    for_each(CASE, count, check)
