"""Ablations and whole tables as runs: which variants, which cells are shared, and what the commands say."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from commands import Cli, in_process, one_line, sets
from paper_folder import Folder

from coinbench import cli_published, repro, sweeps
from coinbench.digests import fit_digest
from coinbench.errors import UsageError
from coinbench.executors.local import Outcome
from coinbench.plan import RunConfig, cells_on
from coinbench.published import find
from coinbench.run import Finished
from coinbench.sweeps import Point

ALL = 16
"""Different variants in tables 14 to 21: the default and fifteen changes."""


@pytest.fixture(scope="module")
def birds() -> dict:
    return sweeps.tree_of("birds", "viscoin")


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COINBENCH_CACHE", str(tmp_path / "cache"))
    return partial(in_process, capfd)


def test_the_ablations_of_the_paper_share_their_cells(birds: dict, tmp_path: Path) -> None:
    found = sweeps.chosen(["all"], [], birds)
    assert [one.name for one in found] == list(sweeps.PRESETS)
    assert len(sweeps.variants_of(found)) == ALL
    assert sum(len(one.points) for one in found) == 23
    config = sweeps.resolved(found, "birds", "viscoin", "0:3", (), None)
    planned = cells_on("d0", "birds", "default", config, tmp_path)
    for variant in config.experiments["birds"]:
        planned += cells_on("d0", "birds", variant, config, tmp_path) if variant != "default" else []
    assert len(planned) == 3 * ALL
    assert len({fit_digest(cell.cell) for cell in planned}) == 3 * ALL, "no two variants are one training"
    assert set(config.metrics) == {"accuracy", "mse", "perceptual", "frechet", "faithfulness"}


def test_each_point_is_what_the_paper_varied_at_the_size_of_the_birds(birds: dict) -> None:
    points = {(one.name, point.label): point for one in sweeps.chosen(["all"], [], birds) for point in one.points}
    assert points["table14", "γ = 0.5"].changes == ("method.gamma=2.5",)
    assert points["table15", "no Φ′, K = 512"].changes == ("method.support=false", "method.K=48")
    assert points["table16", "K = 64"].changes == ("method.K=6",)
    assert points["table17", "off"].changes == ("method.orthogonality=0",)
    assert points["table18", "α = 0.1"].changes == ("method.alpha=0.1",)
    assert points["table19", "δ = 20"].changes == ("method.delta=20",)
    assert points["table20", "without Ω"].changes == ("method.omega=false", "method.K=64")
    assert points["table21", "cross-entropy on labels"].changes == ('method.fidelity="labels"',)
    usual = [point for point in points.values() if not point.changes]
    assert len(usual) == 8
    assert {point.variant for point in usual} == {"default"}


def test_at_the_papers_settings_the_numbers_are_the_papers() -> None:
    cub = sweeps.tree_of("cub200", "viscoin")
    changes = [point.changes for one in sweeps.chosen(["14", "table20"], [], cub) for point in one.points]
    assert changes == [
        ("method.gamma=0",),
        (),
        ("method.gamma=0.2",),
        ("method.gamma=0.5",),
        (),
        ("method.omega=false", "method.K=512"),
    ]


def test_an_axis_is_a_path_and_values(birds: dict) -> None:
    (axis,) = sweeps.chosen([], ["method.gamma=0, 0.5,1e-2"], birds)
    assert axis.points == (
        Point("gamma = 0", "gamma=0", ("method.gamma=0",)),
        Point("gamma = 0.5", "default", ()),
        Point("gamma = 0.01", "gamma=0.01", ("method.gamma=0.01",)),
    )
    (axis,) = sweeps.chosen([], ["problem.classifier.net=resnet,lenet"], birds)
    assert [point.variant for point in axis.points] == ["default", "classifier=lenet"]


WRONG = {
    "none": ([], [], "no ablation given"),
    "preset": (["table3"], [], "unknown table '3'"),
    "no ablation": (["table2a"], [], "table 2a is no ablation; known: all, table14"),
    "no value": ([], ["method.gamma"], "expected path=value,value"),
    "one value": ([], ["method.gamma=1"], "expected path=value,value"),
    "twice": ([], ["method.gamma=1,1.0"], "different values"),
    "setting": ([], ["method.gama=1,2"], "viscoin has no setting 'gama'"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_wrong_ablations_are_refused(case: tuple[list[str], list[str], str], birds: dict) -> None:
    with pytest.raises(UsageError, match=case[2]):
        sweeps.chosen(case[0], case[1], birds)
    with pytest.raises(UsageError, match="an ablation of viscoin, not of flint"):
        sweeps.chosen(["table14"], [], sweeps.tree_of("birds", "flint"))


def test_a_table_becomes_a_run() -> None:
    config = repro.resolved(*find("viscoin-table5"), "0:2")
    (experiment,) = config.experiments["fashionmnist"].values()
    assert set(experiment.methods) == {"viscoin", "flint"}
    assert set(config.metrics) == {"accuracy", "mse", "faithfulness", "consistency"}
    assert config.seeds == (0, 1)
    config = repro.resolved(*find("2a"), "0")
    assert list(config.experiments) == ["celebahq", "cub200", "stanfordcars"]
    assert {"lpips_vgg", "inception", "perceptual", "frechet", "mse"} == set(config.metrics)
    config = repro.resolved(*find("7"), "0")
    assert list(config.experiments["cub200"]) == ["classifier=vit_b_16"]
    config = repro.resolved(*find("4"), "0")
    assert list(config.experiments["celebahq"]) == ["default"]
    assert "coinbench has no generator 'progressivegan'" in repro.lacking(find("4")[1], config)[0]
    (variants,) = repro.resolved(*find("11"), "0").experiments.values()
    measured = variants["default"].evaluation
    assert (measured.auc_ff_images, measured.add_counts) == (5794, (2, 4, 8, 16, 32, 64, 128, 200))
    config = repro.resolved(*find("8"), "0", None, ("evaluation.consistency_images=20",))
    measured = config.experiments["cub200"]["default"].evaluation
    assert (measured.folds, measured.consistency_images) == ("paper", 20)
    config = repro.resolved(*find("1a"), "0", "birds", ("method.train.steps=3",))
    assert {method.train.steps for method in config.experiments["birds"]["default"].methods.values()} == {3}


def test_plans_are_printed_and_nothing_runs(cli: Cli, tmp_path: Path) -> None:
    ran = cli("ablate", "-d", "birds", "-p", "table14,table16", "-s", "0:2", "--plan")
    assert (ran.code, ran.err) == (0, "")
    assert "14 cells, 14 to run" in ran.out
    assert "γ = 0.5 is gamma=2.5" in ran.out
    assert "times that ratio, K rounded" in ran.out
    ran = cli("repro", "1a", "-d", "birds", "--plan", "--json")
    assert [row["label"] for row in json.loads(ran.out)["cells"]] == [
        f"birds/{name} seed 0" for name in ("flint", "flaem", "viscoin")
    ]
    ran = cli("repro", "viscoin-table1a", "--plan")
    assert "missing: " in ran.out
    assert not list(tmp_path.glob("runs"))


FAILURES = {
    "table": (("table", "22"), 2, ["unknown table '22'", "known: 10"]),
    "run": (("table", "1a", "nowhere"), 4, ["no results.parquet"]),
    "format": (("table", "1a", "--format", "pdf"), 2, ["pdf", "md"]),
    "repro": (("repro", "viscoin-table3"), 2, ["unknown published table", "viscoin-table13"]),
    "ablate": (("ablate", "-d", "birds"), 2, ["no ablation given", "--preset all"]),
    "data set": (("ablate", "-d", "brids", "-p", "all"), 2, ["did you mean 'birds'"]),
    "data": (("repro", "1a", "--quiet"), 4, ["celebahq: no CelebA-HQ-img"]),
}


@pytest.mark.parametrize("case", FAILURES.values(), ids=FAILURES.keys())
def test_failures_are_one_line_with_the_documented_code(case: tuple[tuple[str, ...], int, list[str]], cli: Cli) -> None:
    one_line(cli(*case[0]), case[1], *case[2])


def test_published_numbers_alone_need_no_run(cli: Cli) -> None:
    ran = cli("table", "9")
    assert (ran.code, ran.err) == (0, "")
    assert "| Stanford Cars | published | 45.72 |       8 |" in ran.out
    assert cli("table", "viscoin-table9", "-f", "csv").out.startswith("paper,table,line,")


VERDICTS = {
    "differs": ({("accuracy", ""): (0.5, 0.01)}, 3, '"differs": 1'),
    "reproduced": ({("accuracy", ""): (0.7944, 0.01)}, 0, '"reproduced": 1'),
    "other data": ({("accuracy", ""): (0.5, 0.01)}, 0, '"differs": 0'),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_a_number_that_differs_ends_in_code_3(
    name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers, code, said = VERDICTS[name]
    dataset = "birds" if name == "other data" else "cub200"

    def ran(config: RunConfig, place: Path, *rest: object) -> Finished:
        Folder(place).add(dataset, "viscoin", numbers, preset=dataset).read()
        (cell,) = [
            one for one in cells_on("d0", dataset, "default", config, place) if one.cell.method.name == "viscoin"
        ]
        cell.folder.mkdir()
        (cell.folder / "unavailable.json").write_text("{}")
        (cell.folder / "results.parquet").touch()
        outcome = Outcome(exit_code=0, error="", seconds=1.0, kept=False)
        return Finished(place, {cell.digest: outcome}, [cell])

    monkeypatch.setattr(cli_published, "_perform", ran)
    found = cli("repro", "1a", "--json", "--out", tmp_path / "run", *(("-d", "birds") if dataset == "birds" else ()))
    assert (found.code, found.err) == (code, "")
    assert said in found.out
    written = {path.name for path in (tmp_path / "run" / "tables").iterdir()}
    assert written == {f"viscoin-table1a.{kind}" for kind in ("md", "tex", "csv", "html")}


@pytest.mark.slow
def test_an_ablation_runs(cli: Cli, tmp_path: Path) -> None:
    tiny = [*sets(method__train__steps="2"), "--set", "evaluation.limit=16", "--quiet"]
    ran = cli("ablate", "-d", "birds", "-p", "table20", "-s", "0", *tiny, "--out", tmp_path / "out", "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert [row["label"] for row in found["cells"]] == [
        "birds/viscoin seed 0",
        "birds/viscoin [omega=false,K=8] seed 0",
    ]
    assert {effect["metric"] for effect in found["effects"]} == {"acc (%)", "MSE", "PD-p", "FD-p", "FD-f"}
    names = {path.name for path in (tmp_path / "out" / "tables").iterdir()}
    assert {"viscoin-table20.md", "viscoin-table20.tex", "ablation-directions.md"} <= names
    assert "without Ω: K = 8" in (tmp_path / "out" / "tables" / "viscoin-table20.md").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "figures" / "ablation-table20-birds.pdf").stat().st_size > 1000
