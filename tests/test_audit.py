"""The audit: entrants that game the numbers are caught, and where nothing catches one it fails."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Cli, in_process, one_line

from coinbench.audit import run, text
from coinbench.audit.entrants import Blurred, ClassLogits, Copies, Duplicated, NoisyOmega, Shuffled, Watermark
from coinbench.audit.measure import Reading
from coinbench.audit.oracle import Oracle
from coinbench.audit.run import Audit, Number, audit
from coinbench.audit.setting import assembled, unmeasured
from coinbench.cache import Cache
from coinbench.companions import READ_WITH
from coinbench.config import EvaluationConfig
from coinbench.conformance.tiny import make_truth_problem
from coinbench.registry import METRICS as METRICS_OF_ALL

METRICS = ("mse", "concept_flags", "part_locality")
SETTINGS = {"part_images": 80, "locality_images": 2, "permutations": 10, "bootstrap": 100, "faithfulness_images": 8}


@pytest.fixture(scope="module")
def small() -> tuple[Audit, Oracle]:
    """An audit with three metrics, of which mse alone catches no one who draws x."""
    config = EvaluationConfig.model_validate(SETTINGS)
    bench, oracle = assembled(make_truth_problem(train=20, test=16), METRICS, config, Cache(Path("unused")))
    with torch.no_grad():
        return audit(bench, oracle), oracle


def test_entrants_that_game_a_number_are_caught_by_another(small: tuple[Audit, Oracle]) -> None:
    found, _ = small
    games = {game.name: game for game in found.games}
    assert len(games) == 7
    assert not found.unavailable
    assert not found.uncaught
    assert "mse" in games["copies x"].first
    for name in ("copies x", "class logits", "all equal", "adversarial noise"):
        assert "part_locality" in games[name].caught, name
    assert games["duplicated"].caught[0].startswith("concept_flags")
    assert "part_locality" in games["duplicated"].first


def test_the_audit_fails_where_nothing_catches_an_entrant(small: tuple[Audit, Oracle]) -> None:
    found, _ = small
    blind = tuple(number for number in found.numbers if number.name == "mse")
    games = tuple(
        run.judged(blind, game.name, game.about, {"mse": Reading(game.values["mse"])}) for game in found.games
    )
    alone = Audit(blind, games)
    assert "copies x" in [game.name for game in alone.uncaught]
    assert "Not caught: copies x, ranked first by mse." in text.markdown(alone, "")


def test_a_number_that_ranks_an_entrant_first_names_one_that_catches_it(small: tuple[Audit, Oracle]) -> None:
    found, _ = small
    assert found.unwarned == []
    assert found.read_with["mse"] == READ_WITH["mse"]
    # A metric of a plug-in whose author said nothing, one that names what catches nobody, one that is about f alone.
    for companions, said in (
        (None, "mse ranks copies x first; it names none"),
        (("dead_concepts",), "mse ranks copies x first; of dead_concepts none catches it"),
        ((), None),
    ):
        other = replace(found, read_with={**found.read_with, "mse": companions})
        assert [str(one) for one in other.unwarned if one.entrant == "copies x"] == ([said] if said else [])
        assert not other.uncaught
        assert (f"No warning: {said}." in text.markdown(other, "")) is bool(said)
        assert [one["number"] for one in text.as_dict(other)["unwarned"]] == ["mse"] * len(other.unwarned)


def test_the_command_fails_without_a_warning(
    small: tuple[Audit, Oracle], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, oracle = small
    bench, _ = assembled(make_truth_problem(train=20, test=16), METRICS, EvaluationConfig(), Cache(Path("unused")))
    monkeypatch.setattr("coinbench.audit.setting.prepare", lambda *given: (bench, oracle))
    for companions, code in ((READ_WITH["mse"], 0), (None, 3)):
        other = replace(found, read_with={**found.read_with, "mse": companions})
        monkeypatch.setattr(run, "audit", lambda *given, other=other: other)
        assert in_process(capfd, "audit", "--quiet").code == code


def test_the_audit_measures_damage_noise_and_invariance(small: tuple[Audit, Oracle]) -> None:
    found, _ = small
    numbers = {number.name: number for number in found.numbers}
    mse, locality = numbers["mse"], numbers["part_locality"]
    assert mse.oracle.value == 0
    assert locality.oracle.value == 1
    assert [mse.under(kind) for kind in mse.damage] == ["falls", "falls", "falls"]
    assert locality.under("blurred decoder") == "falls"
    assert locality.nulls["shuffled"].value < 0.6
    assert all(number.batch and number.order for number in found.numbers)
    assert mse.reseed == 0
    told = json.loads(json.dumps(text.as_dict(found), allow_nan=False))
    assert [number["name"] for number in told["numbers"]] == list(numbers)
    shown = text.markdown(found, "Head.")
    assert shown.startswith("Head.\n\n## Numbers\n\n| number | better | oracle |")
    assert "All 7 are caught." in shown
    assert "mse gets better" not in shown
    worse = Audit((replace(mse, order=False, damage={"haze": (Reading(-1.0),)}),), ())
    told = text.markdown(worse, "")
    assert "* mse gets better under haze: a good value may come of" in told
    assert "* mse differs in another order." in told


def test_entrants_do_what_they_are_said_to(small: tuple[Audit, Oracle]) -> None:
    _, oracle = small
    given = make_truth_problem(train=20, test=16)
    images = given.test.take(np.arange(8)).images
    known = oracle.encode(images)
    for kind in (Copies, Watermark, Duplicated, partial(Blurred, sigma=1.0), partial(NoisyOmega, level=0.6)):
        coin = kind(oracle)
        concepts = coin.encode(images)
        shown = coin.decode(concepts)
        alone = coin.decode(coin.encode(images[2:3]))
        assert torch.equal(alone, shown[2:3])
        none = coin.decode(replace(concepts, phi=0 * concepts.phi, pooled=0 * concepts.pooled))
        if kind in (Copies, Watermark):
            assert (shown - none).abs().max() <= 4.1 / 127.5
            assert (shown - images).abs().max() <= 3.1 / 127.5
    # What the mark says is what g reads, not what is shown.
    coin = Watermark(oracle)
    other = replace(coin.encode(images), phi=known.phi.roll(1, 0), pooled=known.pooled.roll(1, 0))
    assert torch.equal(coin.encode(coin.decode(other)).pooled, other.pooled)
    assert ClassLogits(oracle).encode(images).pooled.shape == (8, 10)
    half = (Shuffled(oracle, 0.5).encode(images).pooled == known.pooled).all(1).float().mean()
    assert 0 < half < 1


def test_a_number_says_who_is_behind() -> None:
    one = Number("a", False, (0.0, np.inf), Reading(1.0), {}, {"shuffled": Reading(3.0)}, {}, 0.1, True, True)
    assert one.scale == 2
    assert [one.catches(Reading(value)) for value in (1.3, 1.6, 0.0)] == [False, True, False]
    assert [one.ranks_first(value) for value in (1.1, 1.3, 0.5)] == [True, False, True]
    blind = replace(one, nulls={"shuffled": Reading(1.0)})
    assert np.isnan(blind.scale)
    assert not blind.catches(Reading(9.0))
    assert not replace(one, better=None).catches(Reading(9.0))


def test_what_images_explain_catches_nobody() -> None:
    one = Number("a", True, (0.0, 1.0), Reading(0.9, 0.3), {}, {"shuffled": Reading(0.1, 0.1)}, {}, 0.0, True, True)
    assert one.catches(Reading(0.5, 0.1))
    assert not one.catches(Reading(0.5, 0.4))
    assert not replace(one, reseed=0.2).catches(Reading(0.5))
    # As consistency: the oracle is no better than what knows nothing.
    weak = replace(one, oracle=Reading(0.8, 0.1), nulls={"shuffled": Reading(0.1), "constant": Reading(0.82)})
    assert weak.no_better_than == ("constant",)
    assert not weak.catches(Reading(0.0))
    told = text.markdown(Audit((weak,), ()), "")
    assert "* a of the oracle, 0.8, is but for noise no better than that of constant 0.82: it does" in told
    # As a flag: the oracle has the best value there is, whoever else has it too.
    flag = Number("flag", False, (0.0, 1.0), Reading(0.0), {}, {"shuffled": Reading(0.0)}, {}, 0.0, True, True)
    assert flag.catches(Reading(0.5, 0.2))
    assert "no better" not in text.markdown(Audit((flag,), ()), "")


def test_a_step_back_within_noise_is_not_uneven() -> None:
    levels = (Reading(0.6, 0.1), Reading(0.65, 0.1), Reading(0.3, 0.1))
    one = Number("a", True, (0.0, 1.0), Reading(1.0), {}, {}, {"blur": levels}, 0.0, True, True)
    assert one.under("blur") == "falls"
    sure = replace(one, damage={"blur": tuple(Reading(level.value, 0.01) for level in levels)})
    assert sure.under("blur") == "uneven"
    assert "* a is uneven under blur: it does not tell little damage from much" in text.markdown(Audit((sure,), ()), "")


def test_what_is_not_measured_is_named_with_what_measures_it() -> None:
    measured = tuple(name for name in METRICS_OF_ALL.names() if not METRICS_OF_ALL.load(name).needs)
    assert {"part_consistency", "visualisation"} <= {*measured}
    told = unmeasured(measured, "birds")
    assert {*told} == {*METRICS_OF_ALL.names(), "concept_stability"} - {*measured}
    assert told["lpips_alex"].endswith("then coinbench audit --metrics lpips_alex")
    assert "--seeds 0:2" in told["concept_stability"]


def test_the_command_refuses_what_it_cannot_audit(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cli: Cli = partial(in_process, capfd)
    here = ("--cache", tmp_path / "cache")
    one_line(cli("audit", "-d", "digits", *here), 2, "audit --dataset digits: cannot draw its images", "birds")
    one_line(cli("audit", "-d", "bird", *here), 2, "unknown data set 'bird'")
    one_line(cli("audit", "--metrics", "msee", *here), 2, "unknown metric 'msee'")
