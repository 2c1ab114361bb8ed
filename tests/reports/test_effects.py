"""What ablations change: intervals, Holm's correction, and the paper's direction only where it has one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from paper_folder import Folder, ablated

from coinbench.inference import Difference, holm
from coinbench.published import papers
from coinbench.reports.effects import NONE, REVERSED, SHOWS, UNEVEN, Effect, as_rows, as_text, effects, uneven

PAPER = papers()["viscoin"]


def of(found: list[Effect], label: str, metric: str) -> Effect:
    (effect,) = [one for one in found if (one.label, one.metric) == (label, metric)]
    return effect


def test_a_direction_is_said_where_a_test_shows_it(tmp_path: Path) -> None:
    found = effects(PAPER, PAPER.table("14"), ablated(tmp_path), "birds")
    up = of(found, "γ = 0.5", "FF, τ = 0.2")
    assert (up.verdict, of(found, "γ = 0", "FF, τ = 0.2").verdict) == (SHOWS, SHOWS)
    assert of(found, "γ = 0.5", "PD-p").verdict == REVERSED
    # The seeds' changes of MSE are equal and opposite.
    assert of(found, "γ = 0.2", "MSE").verdict == NONE
    assert up.published == pytest.approx(0.094)
    assert up.changes == pytest.approx((0.2, 0.2))
    assert isinstance(up.found, Difference)
    # Two seeds, each of two numbers with a half-width of 0.01: √(2 · 0.01² / 2) on average, by hand.
    assert (up.found.high - up.found.low) / 2 == pytest.approx(0.01, rel=0.15)
    assert up.found.over == "images"


def test_p_is_corrected_over_the_effects_of_the_table_that_are_asked_for(tmp_path: Path) -> None:
    found = effects(PAPER, PAPER.table("14"), ablated(tmp_path), "birds")
    asked = [one for one in found if one.asked]
    assert len(asked) == 9, "three settings, each with faithfulness, MSE and PD-p"
    raw = [one.found.p for one in asked if isinstance(one.found, Difference)]
    assert [one.p for one in asked] == holm(raw)
    assert all(np.isnan(one.p) for one in found if not one.asked)


def test_numbers_that_rise_and_fall_in_the_paper_have_no_direction(tmp_path: Path) -> None:
    found = effects(PAPER, PAPER.table("14"), ablated(tmp_path), "birds")
    distance = of(found, "γ = 0.5", "FD-f")
    assert (distance.verdict, distance.beside) == (UNEVEN, "FID")
    rise_and_fall = {
        table.id: [column.title for number, column in enumerate(table.columns) if uneven(table, number)]
        for table in PAPER.tables
        if table.axis
    }
    assert rise_and_fall == {
        "14": ["FID"],
        "15": [],
        "16": [],
        "17": [],
        "18": ["MSE", "FID"],
        "19": ["acc (%)"],
        "20": [],
        "21": [],
    }


def test_without_an_effect_few_directions_are_said(tmp_path: Path) -> None:
    """Three seeds without any effect share a sign one time in four; that alone says nothing."""
    rng, folder = np.random.default_rng(0), Folder(tmp_path)
    points = (("default", ()), ("gamma=0", ("method.gamma=0",)), ("gamma=1", ("method.gamma=1",)))
    for seed in range(3):
        for name, changes in points:
            noise = rng.normal(0, 0.01, 3)
            numbers = {("faithfulness", "tau=0.2"): (0.2 + noise[0], 0.02), ("mse", ""): (0.3 + noise[1], 0.02)}
            numbers["pd_p", ""] = (0.4 + noise[2], 0.02)
            folder.add("birds", "viscoin", numbers, seed, name, changes, preset="birds")
    found = effects(PAPER, PAPER.table("14"), folder.read(), "birds")
    assert len(found) == 6
    assert any(len({change > 0 for change in one.changes}) == 1 for one in found), "some share a sign"
    assert {one.verdict for one in found} == {NONE}


def test_five_seeds_count_their_own_spread(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for seed, moved in enumerate((0.3, -0.1, 0.25, -0.12, 0.2)):
        for name, changes, value in (("default", (), 0.2), ("gamma=1", ("method.gamma=1",), 0.2 + moved)):
            numbers = {("faithfulness", "tau=0.2"): (value, 0.001)}
            folder.add("birds", "viscoin", numbers, seed, name, changes, preset="birds")
    (effect,) = effects(PAPER, PAPER.table("14"), folder.read(), "birds")
    assert isinstance(effect.found, Difference)
    assert effect.found.over == "images and 5 seeds"
    assert effect.verdict == NONE


def test_below_five_seeds_every_training_must_agree(tmp_path: Path) -> None:
    effect = of(effects(PAPER, PAPER.table("14"), ablated(tmp_path), "birds"), "γ = 0.5", "FF, τ = 0.2")
    assert replace(effect, changes=(0.41, -0.01)).verdict == NONE


def test_the_note_says_what_it_is_worth(tmp_path: Path) -> None:
    found = effects(PAPER, PAPER.table("14"), ablated(tmp_path), "birds")
    text = as_text(found)
    assert re.search(r"\| 14 +\| γ = 0\.5 +\| PD-p for LPIPS +\| +\+0\.089 \| −0\.200 \[−0\.2\d+, −0\.1\d+\] ", text)
    assert "p corrected by Holm over the effects of a table" in text
    assert "between-seed uncertainty is not estimable" in text
    assert "PD-p against the paper's LPIPS, FD-f against the paper's FID" in text
    rows = as_rows(found)
    assert {row["direction"] for row in rows} == {SHOWS, REVERSED, NONE, UNEVEN}
    assert {row["p"] is None for row in rows if row["direction"] == UNEVEN} == {True}


def test_runs_without_resamples_say_so(tmp_path: Path) -> None:
    run = ablated(tmp_path)
    run.numbers = type(run.numbers)(run.run.records)
    found = effects(PAPER, PAPER.table("14"), run, "birds")
    assert {one.verdict for one in found} == {"not comparable: no resamples stored"}
    assert re.search(r"\| \+0\.200 +\| +– \| +not comparable", as_text(found))
