"""`coinbench compare`: what is equal, what differs, what cannot be compared, and what only one run holds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from commands import Cli, in_process, one_line

from coinbench import results

Maker = Callable[..., Path]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return partial(in_process, capfd)


@pytest.fixture(scope="module")
def run(make_run: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("a"), datasets=("birds",), seeds=(0, 1), images=False)


def changed(run: Path, folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> Path:
    """The results of a run after a change, in a folder of their own."""
    table = results.read(run)
    after = change(table)
    results.write(table if after is None else after, folder)
    return folder


def where(table: pd.DataFrame, **values: Any) -> pd.Series:
    """The rows about the whole sample with these values."""
    hit = pd.Series(table["subject"] == "all")
    for name, value in values.items():
        hit &= table[name] == value
    return hit


def count(run: Path) -> int:
    return len(results.read(run).query("subject == 'all'"))


def test_a_run_is_equal_to_itself(cli: Cli, run: Path) -> None:
    ran = cli("compare", run, run)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0] == f"{count(run)} rows equal, 0 differ, 0 only in A, 0 only in B, 0 not comparable"
    assert "|" not in ran.out
    assert cli("compare", run, run, "--all").out.count("\n| birds") == count(run) // 2


def test_a_change_is_found_and_printed_with_its_size(cli: Cli, run: Path, tmp_path: Path) -> None:
    def change(table: pd.DataFrame) -> None:
        table.loc[where(table, metric="mse", arm="method", method="flint", seed=1), "value"] += 1e-9

    other = changed(run, tmp_path, change)
    ran = cli("compare", run, other)
    assert ran.out.startswith(f"{count(run) - 1} rows equal, 1 differ,")
    (line,) = [line for line in ran.out.splitlines() if line.startswith("| birds")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:7] == ["birds", "mse ↓", "", "method", "flint", "0 1", "1 of 2"]
    assert cells[-1] == "+5e-10 ± 7.1e−10".replace("e-", "e−")
    found = json.loads(cli("compare", run, other, "--json", "--metrics", "mse", "--method", "flint").out)
    rows = {(row["arm"], row["seed"]): row for row in found["rows"]}
    assert set(rows) == {(arm, seed) for arm in ("method", "mean image") for seed in (0, 1)}
    assert rows["method", 1]["difference"] == pytest.approx(1e-9, rel=1e-3)
    assert [row["equal"] for row in rows.values()].count(False) == 1
    assert rows["method", 0]["a"]["value"] == rows["method", 0]["b"]["value"]


def test_one_seed_shows_the_intervals_of_both(cli: Cli, run: Path, tmp_path: Path) -> None:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[where(table, metric="accuracy", arm="method", method="flint"), ["value", "low", "high"]] = (
            0.5,
            0.4,
            0.6,
        )
        return table.query("seed == 0")

    ran = cli("compare", changed(run, tmp_path, change), run)
    (line,) = [line for line in ran.out.splitlines() if line.startswith("| birds")]
    assert "0.5000 [0.4000, 0.6000]" in line
    assert line.count("[") == 2
    assert "only in B: birds/flint seed 1, the whole cell" in ran.out


OBSTACLES = {
    "protocol": (("protocol", "test split; other resize"), "protocol differs: test split, g(x̃)_ĉ"),
    "version": (("version", 2), "version differs: 1 in A, 2 in B"),
    "unit": (("unit", "nats"), "unit differs: fraction in A, nats in B"),
}


@pytest.mark.parametrize(("change", "said"), OBSTACLES.values(), ids=OBSTACLES.keys())
def test_what_was_measured_otherwise_is_not_compared(
    cli: Cli, run: Path, tmp_path: Path, change: tuple[str, Any], said: str
) -> None:
    def alter(table: pd.DataFrame) -> None:
        table.loc[where(table, metric="accuracy_f"), [change[0], "value"]] = change[1], 0.1

    other = changed(run, tmp_path, alter)
    ran = cli("compare", run, other)
    assert ran.code == 0
    assert ran.out.splitlines()[0].endswith("0 differ, 0 only in A, 0 only in B, 4 not comparable")
    assert f"- not comparable: accuracy_f on birds (4 rows): {said}" in ran.out
    found = json.loads(cli("compare", run, other, "--json").out)
    assert all(row["difference"] is None for row in found["rows"] if row["obstacle"])


def test_other_images_are_not_compared(cli: Cli, run: Path, make_run: Maker, tmp_path: Path) -> None:
    other = make_run(tmp_path, datasets=("birds",), seeds=(0,), images=False, fingerprint="other")
    ran = cli("compare", run, other)
    assert f"{count(other)} not comparable" in ran.out.splitlines()[0]
    assert "images or labels differ" in ran.out


def test_notes_say_what_the_numbers_do_not(cli: Cli, run: Path, tmp_path: Path) -> None:
    def change(table: pd.DataFrame) -> None:
        table["classifier_digest"] = "other"
        table.loc[where(table, metric="removed", seed=0), "n"] = 7
        table.loc[where(table, metric="fd_f", arm="method"), "high"] += 1
        table.loc[where(table, metric="mse", seed=0), "value"] = math.nan
        table.loc[where(table, metric="sparsity", seed=0), "metric"] = "density"

    ran = cli("compare", run, changed(run, tmp_path, change))
    assert "f of birds differs (f-birds in A, other in B)" in ran.out
    assert "n differs in 6 of the rows" in ran.out
    assert "4 rows with equal values have other intervals" in ran.out
    assert "only in A: birds/flint seed 0, mse, sparsity (8 rows)" in ran.out
    assert "only in B: birds/viscoin seed 0, density (6 rows)" in ran.out


def test_what_cannot_be_compared_is_one_line(cli: Cli, run: Path, make_run: Maker, tmp_path: Path) -> None:
    one_line(cli("compare", run, tmp_path / "none"), 4, "none", "no results.parquet")
    one_line(cli("compare", run, run, "--metrics", "acuracy"), 2, "did you mean 'accuracy'")
    one_line(cli("compare", run, run, "--method", "flnt"), 2, "unknown method of these runs 'flnt'", "flint")
    other = make_run(tmp_path / "other", datasets=("digits",), seeds=(0,), images=False)
    one_line(cli("compare", run, other), 1, "no row in common", "A holds birds/flint seed 0", "B holds digits/flint")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "results.parquet").write_bytes(b"PAR1")
    one_line(cli("compare", broken, run), 4, "results.parquet", "not readable")
    one_line(cli("compare", changed(run, tmp_path / "text", _texts), run), 4, "column 'value'")


def _texts(table: pd.DataFrame) -> None:
    table["value"] = "much"
