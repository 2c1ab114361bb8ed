"""Captions say what a number is read with, and warn of a leader that is no better than a control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coinbench import registry
from coinbench.companions import READ_WITH, parse
from coinbench.metric import MetricSpec
from coinbench.reports.folder import Record, read_records
from coinbench.reports.layout import Table
from coinbench.reports.tables import build_tables

Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def records(make_run: Maker, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = make_run(tmp_path_factory.mktemp("run"), datasets=("birds",), seeds=(0,), images=False)
    told = [replace(r, read_with=", ".join(READ_WITH.get(r.metric, ()))) for r in read_records(folder)]
    leakage = {("viscoin", "method"): 0.2, ("viscoin", "concepts"): 0.6, ("flint", "method"): 0.0}
    (model,) = [r for r in told if (r.metric, r.arm, r.method) == ("mse", "method", "viscoin")]
    for (method, arm), value in leakage.items():
        told.append(replace(model, metric="leakage", method=method, arm=arm, value=value, read_with=""))
    return told


def captions(records: list[Record]) -> dict[str, str]:
    tables: list[Table] = build_tables(records)
    return {table.name: table.caption for table in tables if table.rows}


def test_captions_name_what_a_number_is_read_with(records: list[Record]) -> None:
    found = captions(records)
    said = "Read MSE, PD-p, FD-p, FD-f with: g moved by Φ′ (control: concepts), consistency (control: untrained)."
    assert said in found["reconstruction"]
    assert "Read accuracy of g, agreement of g with f with: median FF_x (control: random)" in found["accuracy"]
    assert "Warning" not in " ".join(found.values())


def test_a_leader_that_is_no_better_than_a_control_is_warned_of(records: list[Record]) -> None:
    gamed = [
        replace(r, value=0.9) if (r.metric, r.arm, r.method) == ("leakage", "method", "viscoin") else r for r in records
    ]
    found = captions(gamed)["reconstruction"]
    assert "Warning: VisCoIN leads MSE, PD-p, FD-p, FD-f on birds, and its " in found
    assert "is no better than the control (concepts)." in found
    # It is the leader who must be warned of.
    others = [
        replace(r, value=0.9) if (r.metric, r.arm, r.method) == ("leakage", "method", "flint") else r for r in records
    ]
    assert "Warning" not in captions(others)["reconstruction"]

    # Faithfulness at one τ says something where it does not at another.
    def dulled(settings: tuple[str, ...]) -> list[Record]:
        return [
            replace(r, value=-0.1) if (r.metric, r.arm) == ("faithfulness", "method") and r.params in settings else r
            for r in records
        ]

    assert "Warning" not in captions(dulled(("tau=0.1",)))["accuracy"]
    assert (
        "its median FF_x is no better than the control (random)"
        in captions(dulled(("tau=0.1", "tau=0.2", "tau=0.4")))["accuracy"]
    )


def test_results_without_companions_say_nothing(records: list[Record]) -> None:
    found = captions([replace(r, read_with="") for r in records])
    assert not [name for name, caption in found.items() if "Read " in caption or "Warning" in caption]


def test_each_number_with_a_direction_has_companions_that_exist() -> None:
    specs = {spec.name: spec for name in registry.METRICS.names() for spec in registry.METRICS.load(name).specs}
    assert set(READ_WITH) <= set(specs)
    for spec in specs.values():
        assert spec.higher_is_better is None or spec.companions is not None, f"{spec.name}: say what it is read with"
        for text in spec.companions or ():
            name, control = parse(text)
            assert name in specs
            assert not control or control in specs[name].null or control == "random"


def test_a_plugin_says_its_own() -> None:
    given = {"version": 1, "unit": "", "bounds": (0.0, 1.0), "higher_is_better": True, "source": "", "protocol": ""}
    spec = MetricSpec(name="mine", read_with=("leakage (concepts)",), **given)
    assert spec.score(0.5, n=3).read_with == "leakage (concepts)"
    assert MetricSpec(name="mine", **given).companions is None
    with pytest.raises(ValueError, match=r"read_with: 'a b'; expected NAME or NAME \(CONTROL\)"):
        MetricSpec(name="mine", read_with=("a b",), **given)
