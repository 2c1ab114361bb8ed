"""Registries, what logs and displays say."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from coinbench import catalogue, registry
from coinbench.data.source import Source
from coinbench.errors import CoinbenchError, DataError, Interrupted, UsageError
from coinbench.log import Log
from coinbench.metric import Metric
from coinbench.progress import Display
from coinbench.registry import Registry
from coinbench.specs import ClassifierSpec, DatasetSpec, GeneratorSpec, MethodSpec

ALL = [(kind, name) for kind, of in catalogue.KINDS.items() for name in of.names()]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_entry_can_be_loaded_listed_and_described(kind: str, name: str) -> None:
    entry = catalogue.KINDS[kind].load(name)
    types: dict[str, Any] = {
        "methods": MethodSpec,
        "datasets": DatasetSpec,
        "classifiers": ClassifierSpec,
        "generators": GeneratorSpec,
    }
    if kind == "metrics":
        assert Metric in entry.__mro__
        for spec in entry.specs:
            assert spec.source
            assert spec.protocol
            assert spec.version >= 1
            assert spec.bounds[0] < spec.bounds[1]
    else:
        assert isinstance(entry, types[kind])
    assert catalogue.listing(kind)[kind][name]
    assert name in catalogue.describe(name)
    if kind in ("methods", "datasets"):
        assert entry.config.model_fields["name"].default == name


def test_no_two_metrics_share_the_name_of_a_number() -> None:
    names = [spec.name for metric in registry.METRICS.names() for spec in registry.METRICS.load(metric).specs]
    assert len(set(names)) == len(names)


def test_an_unknown_name_lists_the_near_ones_and_all() -> None:
    with pytest.raises(
        UsageError, match=r"unknown method 'viscion': did you mean 'viscoin'\? \(known: flaem, flint, random, viscoin\)"
    ):
        registry.METHODS.load("viscion")
    with pytest.raises(UsageError, match="unknown kind 'method'"):
        catalogue.listing("method")
    with pytest.raises(UsageError, match="unknown name"):
        catalogue.describe("nothing like it")


def test_a_plug_in_is_found_and_does_not_replace_a_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {
        "mine": "coinbench.methods.viscoin:METHOD",
        "flint": "coinbench.methods.viscoin:METHOD",
        "gone": "no_such_module:X",
        "path": "pathlib:Path",
    }
    installed = [EntryPoint(name, value, "coinbench.methods") for name, value in entries.items()]
    twice = [EntryPoint("twin", "pathlib:Path", "coinbench.methods")] * 2
    monkeypatch.setattr(registry, "entry_points", lambda group: [*installed, *twice])
    here = Registry("method", "coinbench.methods", dict(registry.METHODS.built_in))
    assert here.names() == [*registry.METHODS.built_in, "mine", "gone", "path", "twin"]
    assert here.load("mine") is registry.METHODS.load("viscoin")
    assert here.load("flint") is registry.METHODS.load("flint")
    assert here.ignored() == ["method 'flint' of an installed package is not used: coinbench has that name"]
    for name, words in {
        "gone": "cannot be imported (ModuleNotFoundError: No module named 'no_such_module'",
        "path": "pathlib:Path is the class Path, expected a MethodSpec",
        "twin": "two packages have that name; uninstall one",
    }.items():
        with pytest.raises(UsageError, match=re.escape(words)):
            here.load(name)


def test_a_mapping_becomes_the_type_that_its_name_says() -> None:
    found = registry.typed(registry.METHODS, {"name": "flint", "train": {"steps": 3}})
    assert type(found) is registry.METHODS.load("flint").config
    assert registry.typed(registry.METHODS, found) is found
    with pytest.raises(UsageError, match="'name' is missing"):
        registry.typed(registry.METHODS, {"K": 3})


def test_every_data_set_says_where_it_comes_from(tmp_path: Path) -> None:
    spec = registry.PROBLEMS.load("birds")
    source = spec.open(spec.config(n_train=10, n_test=10), tmp_path)
    assert isinstance(source, Source)
    assert source.card.licence


@pytest.mark.parametrize(("error", "code"), [(CoinbenchError, 1), (UsageError, 2), (DataError, 4), (Interrupted, 130)])
def test_errors_carry_the_exit_codes_of_the_design(error: type[CoinbenchError], code: int) -> None:
    assert error("x").exit_code == code


# log


def test_progress_is_throttled_and_always_tells_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("coinbench.log.time.monotonic", lambda: now[0])
    events: list[dict[str, Any]] = []
    log = Log(tmp_path, events.append, stage="fit")
    for step in range(1, 21):
        log.progress(step, 20, 1.0)
        now[0] += 0.1
    assert [event["step"] for event in events] == [1, 7, 13, 19, 20]
    assert set(events[0]) == {"stage", "step", "steps", "seconds_left", "text"}


def test_a_stage_shares_the_stop_and_writes_into_its_own_folder(tmp_path: Path) -> None:
    log = Log(tmp_path, tensorboard=True)
    stage = log.at("fit", tmp_path / "fit")
    assert (stage.stage, stage.folder, stage.tensorboard) == ("fit", tmp_path / "fit", True)
    stage.check()
    log.stop.set()
    with pytest.raises(Interrupted, match="fit: interrupted; the same command resumes"):
        stage.check()


# display


def step(n: int, stage: str = "fit") -> dict[str, Any]:
    return {"stage": stage, "step": n, "steps": 100, "seconds_left": 3725.4, "text": "loss 1"}


def test_a_display_writes_plain_lines_to_stderr_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("coinbench.progress.time.monotonic", lambda: now[0])
    with Display() as display:
        for n in range(1, 101):
            display.event("a", step(n))
            now[0] += 0.5
        display.event("a", step(1, "evaluate"))
        display.event("a", {"stage": "evaluate", "text": "scoring [mse]"})
        display.end("a", "done in 3 s")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "a: fit 1/100, loss 1, 1:02:05 left"
    assert [line.split("/")[0].rsplit(" ", 1)[1] for line in lines[:6]] == ["1", "21", "41", "61", "81", "100"]
    assert lines[6].startswith("a: evaluate 1/100")
    assert lines[7:] == ["a: evaluate: scoring [mse]", "a: done in 3 s"]
    assert "\x1b" not in err


def test_a_quiet_display_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(quiet=True) as display:
        display.event("a", step(1))
        display.say("text")
        display.end("a", "done")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_one_bar_per_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Display() as display:
        assert display.bars is not None
        display.event("a", step(1))
        display.event("b", step(5))
        display.event("a", step(50, "evaluate"))
        assert [(task.description, task.completed) for task in display.bars.tasks] == [
            ("a: evaluate", 50),
            ("b: fit", 5),
        ]
        display.end("a", "done")
        assert [task.description for task in display.bars.tasks] == ["b: fit"]
