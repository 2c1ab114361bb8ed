"""Tables of the paper with a run beside them: layout, verdicts, formats."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paper_folder import Folder, ablated, settings

from coinbench.errors import DataError
from coinbench.overrides import parse
from coinbench.published import PublishedTable, papers
from coinbench.reports.ablation import axis_lines, plots
from coinbench.reports.paper_run import PaperRun
from coinbench.reports.paper_tables import APART, DIFFERS, REPRODUCED, UNAVAILABLE, Cell, SideBySide, build
from coinbench.reports.paper_text import render
from coinbench.sweeps import chosen

PAPER = papers()["viscoin"]


def filled(name: str, run: PaperRun | None) -> SideBySide:
    return build(PAPER, PAPER.table(name), run)


def cell(found: SideBySide, title: str, label: str = "", measured: bool = True, dataset: str = "CUB-200") -> Cell:
    (match,) = [
        c
        for line in found.lines
        for c in line.cells
        if c and c.title == title and line.labels[-1].startswith(label) and bool(line.variant) is measured
        if line.dataset == dataset
    ]
    return match


def test_a_number_reproduces_where_the_published_one_lies_in_its_interval(tmp_path: Path) -> None:
    folder = Folder(tmp_path).add(
        "cub200", "viscoin", {("accuracy", ""): (0.79, 0.01), ("accuracy_f", ""): (0.7, 0.01)}
    )
    folder.add("cub200", "flint", {("accuracy", ""): (0.80, 0.01)})
    found = filled("1a", folder.read())
    assert cell(found, "VisCoIN").verdict == REPRODUCED
    assert cell(found, "FLINT").verdict == DIFFERS
    assert cell(found, "Original-f").verdict == DIFFERS
    assert cell(found, "FLAEM").verdict == UNAVAILABLE
    assert cell(found, "FLAEM").reason == "flaem is not in this run"
    assert cell(found, "VisCoIN").difference == pytest.approx((-0.44, -1.44, 0.56))
    assert found.differing == 2
    assert "unavailable: this run has no CelebA-HQ, no Stanford Cars." in found.notes
    line = r"\| CUB-200 +\| VisCoIN +\| +79\.44 \| +79\.000 \| +−0\.440 \[−1\.440, \+0\.560\] \| +reproduced \|"
    assert re.search(line, render(found, "md"))


def test_numbers_without_their_settings_are_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path).add("cub200", "viscoin", {("accuracy", ""): (0.79, 0.01)})
    shutil.rmtree(tmp_path / "cells")
    with pytest.raises(DataError, match="no cells/"):
        folder.read()


def test_rounding_and_bounds_of_the_paper_count(tmp_path: Path) -> None:
    numbers = {("faithfulness", "tau=0.1"): (0.0044, 0.0), ("faithfulness", "tau=0.2"): (0.0026, 0.0)}
    folder = Folder(tmp_path).add("cub200", "flint", {**numbers, ("faithfulness", "tau=0.4"): (0.0009, 0.0)})
    numbers = {("faithfulness", "tau=0.1"): (0.002, 0.0005), ("faithfulness", "tau=0.2"): (0.002, 0.0015)}
    folder.add("cub200", "flaem", numbers)
    found = filled("2b", folder.read())
    # 0.004 may have been 0.0044; 0.002 may not have been 0.0026.
    assert cell(found, "FLINT", "0.1").verdict == REPRODUCED
    assert cell(found, "FLINT", "0.2").verdict == DIFFERS
    assert cell(found, "FLINT", "0.4").verdict == REPRODUCED
    assert cell(found, "FLAEM", "0.1").verdict == DIFFERS
    assert cell(found, "FLAEM", "0.2").verdict == REPRODUCED


def test_the_interval_is_over_seeds_from_five_on_and_spans_their_own_below(tmp_path: Path) -> None:
    values = (0.10, 0.12, 0.14, 0.16, 0.18)
    for seeds, low, high in ((2, 0.09, 0.13), (5, 0.14 - 0.0392648, 0.14 + 0.0392648)):
        folder = Folder(tmp_path / str(seeds))
        for seed in range(seeds):
            folder.add("cub200", "viscoin", {("mse", ""): (values[seed], 0.01)}, seed)
        measured = cell(filled("2a", folder.read()), "VisCoIN", "MSE").measured
        assert measured is not None
        # t(0.975, 4) = 2.776, s = 0.0316: by hand.
        assert (measured.low, measured.high) == pytest.approx((low, high), abs=1e-5)


CHANGES = {
    "size": ("data.size=128", "data.size is 128, published with 256"),
    "part": ("data.complete=false", "data.complete is off, published with on"),
    "limit": ("evaluation.limit=100", "evaluation.limit is 100, published with not set"),
    "steps": ("method.train.steps=10", "methods.viscoin.train.steps is 10, published with 100000"),
    "f": ("problem.classifier.net=resnet101", "problem.classifier.net is resnet101, published with resnet50"),
    "Φ′": ("method.support=false", "methods.viscoin.support is off, published with on"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_other_settings_than_the_papers_are_not_comparable(change: tuple[str, str], tmp_path: Path) -> None:
    numbers = {("accuracy", ""): (0.7944, 0.0)}
    found = filled("1a", Folder(tmp_path).add("cub200", "viscoin", numbers, sets=(change[0],)).read())
    measured = cell(found, "VisCoIN", dataset="cub200 (part)" if "complete" in change[0] else "CUB-200")
    assert (measured.verdict, measured.reason) == (APART, change[1])
    assert not found.judged


FAITHFUL, CONSISTENT = ("faithfulness", "tau=0.2"), ("consistency", "lambda=2")
MEASURED = {
    "images of faithfulness, table 2b": ("2b", FAITHFUL, "faithfulness_images=50", "50, published with 1000"),
    "images of faithfulness, table 6": ("6", FAITHFUL, "faithfulness_images=999", "999, published with 1000"),
    "images of faithfulness, table 14": ("14", FAITHFUL, "faithfulness_images=50", "50, published with 1000"),
    "images of faithfulness, table 21": ("21", FAITHFUL, "faithfulness_images=50", "50, published with 1000"),
    "images of consistency, table 1b": ("1b", CONSISTENT, "consistency_images=40", "40, published with 100"),
    "images of consistency, table 6": ("6", CONSISTENT, "consistency_images=40", "40, published with 100"),
    "C of the SVM": ("1b", CONSISTENT, "svm_c=[1]", "1, published with 0.01, 0.1, 1, 5"),
    "C of the SVM, table 8": ("8", ("consistency", "lambda=3"), "svm_c=[1]", "1, published with 0.01, 0.1, 1, 5"),
    "images of AUC-FF": ("11", ("auc_ff", ""), "auc_ff_images=1000", "1000, published with 5794"),
    "N of AUC-FF": ("11", ("auc_ff", ""), "add_counts=[8]", "8, published with 2, 4, 8, 16, 32, 64, 128, 200"),
    "pairs": ("9", ("visualisation_fid", ""), "visualisation_pairs=40", "40, published with 400"),
    "λ of visualisations": ("9", ("visualisation_fid", ""), "visualisation_lambda=3", "3, published with 4"),
    "activation steps": ("9", ("visualisation_fid", ""), "activation_steps=100", "100, published with 1000"),
    "λ of parts": ("12", ("part_consistency", "tau=0.1"), "part_lambda=2", "2, published with 3"),
    "λ of parts, figure 8": ("figure8", ("part_consistency_half", "tau=0.1"), "part_lambda=2", "2, published with 3"),
    "images of a concept": (
        *("12", ("part_consistency", "tau=0.1"), "part_consistency_images=50"),
        "50, published with 5794",
    ),
}
"""Table, number, what is another in the evaluation, and how that is said."""


@pytest.mark.parametrize("case", MEASURED.values(), ids=MEASURED.keys())
def test_numbers_measured_another_way_than_the_papers_are_not_comparable(
    case: tuple[str, tuple[str, str], str, str], tmp_path: Path
) -> None:
    name, number, change, said = case
    path, _, value = change.partition("=")
    paper = {**PAPER.evaluation(PAPER.table(name)), f"evaluation.{path}": json.loads(value)}
    for place, given in (("paper", PAPER.evaluation(PAPER.table(name))), ("other", paper)):
        sets = tuple(f"{key}={json.dumps(one)}" for key, one in given.items())
        folder = Folder(tmp_path / place).add("cub200", "viscoin", {number: (0.5, 0.01)}, sets=sets)
        found = filled(name, folder.read())
        verdicts = [(c.verdict, c.reason) for line in found.lines for c in line.cells if c and c.measured]
        if place == "paper":
            assert verdicts
            assert {verdict for verdict, _ in verdicts} <= {REPRODUCED, DIFFERS}
        else:
            assert set(verdicts) == {(APART, f"evaluation.{path} is {said}")}


def test_the_paper_of_fashionmnist_is_measured_as_its_other_tables(tmp_path: Path) -> None:
    number = {("faithfulness", "tau=0.2"): (0.693, 0.01)}
    for count, verdict in ((50, APART), (1000, REPRODUCED)):
        sets = (f"evaluation.faithfulness_images={count}",)
        folder = Folder(tmp_path / str(count)).add("fashionmnist", "viscoin", number, sets=sets, preset="fashionmnist")
        found = cell(filled("5", folder.read()), "FF, τ = 0.2", "VisCoIN", dataset="FashionMNIST")
        assert found.verdict == verdict


def test_what_the_paper_leaves_open_is_noted_where_a_run_has_it_another_way(tmp_path: Path) -> None:
    said = {}
    for folds in ("pairs", "paper"):
        sets = (f"evaluation.folds={folds}",)
        folder = Folder(tmp_path / folds).add("cub200", "viscoin", {CONSISTENT: (0.85, 0.01)}, sets=sets)
        found = filled("1b", folder.read())
        assert cell(found, "VisCoIN").verdict == REPRODUCED
        said[folds] = any("not whether a pair x⁺, x⁻ stays in one fold" in note for note in found.notes)
    assert said == {"pairs": True, "paper": False}


def test_pages_that_are_not_known_are_not_spoken_of() -> None:
    (first, *_) = filled("2a", None).notes
    assert first == "Published: Parekh et al., ICLR 2025, table 2a."
    with_page = PAPER.table("2a").model_copy(update={"page": 7})
    assert build(PAPER, with_page).notes[0] == "Published: Parekh et al., ICLR 2025, table 2a, page 7."


def test_other_data_stand_beside_and_are_not_comparable(tmp_path: Path) -> None:
    numbers = {("mse", ""): (0.05, 0.01), ("pd_p", ""): (0.7, 0.1), ("fd_f", ""): (3.0, 0.1)}
    absent = {"lpips_vgg": "its weights are not here"}
    folder = Folder(tmp_path).add("birds", "viscoin", numbers, preset="birds", unavailable=absent)
    found = filled("2a", folder.read())
    apart = cell(found, "VisCoIN", "MSE", dataset="birds")
    assert apart.verdict == APART
    assert "other data: measured on birds, published on CelebA-HQ" in apart.reason
    assert cell(found, "VisCoIN", "LPIPS", dataset="birds").reason == "its weights are not here"
    assert "weights fetch inception" in cell(found, "VisCoIN", "FID", dataset="birds").reason
    rows = [line.labels[1] for line in found.lines if line.dataset == "birds"]
    assert rows == ["MSE", "LPIPS", "PD-p", "FID", "FD-f"]
    assert cell(found, "VisCoIN", "PD-p", dataset="birds").published is None
    assert not found.judged
    assert "unavailable" in render(found, "md")


def test_settings_of_the_concept_count_that_the_paper_lacks_get_columns(tmp_path: Path) -> None:
    numbers = {("topn_accuracy", f"N={n}"): (n / 100, 0.0) for n in (4, 8, 24)}
    found = filled("10", Folder(tmp_path).add("birds", "viscoin", numbers, preset="birds").read())
    assert found.columns[-1] == "N = 24"
    assert cell(found, "N = 24", dataset="birds").measured is not None
    missing = {n: cell(found, f"N = {n}", dataset="birds") for n in (16, 32)}
    assert {one.verdict for one in missing.values()} == {UNAVAILABLE}
    assert missing[16].reason == "measured at N=4, N=8, N=24, not at N=16"
    assert missing[32].reason == "K is 24 in this run"


def test_methods_as_lines_have_the_measured_ones_below(tmp_path: Path) -> None:
    folder = Folder(tmp_path).add("birds", "viscoin", {("auc_ff", ""): (0.5, 0.1)}, preset="birds")
    found = filled("11", folder.read())
    assert [(line.labels, line.dataset) for line in found.lines] == [
        (("VisCoIN",), "CUB-200"),
        (("VisCoIN",), "birds"),
        (("FLINT",), "CUB-200"),
        (("FLINT",), "birds"),
    ]
    assert cell(found, "AUC-FF", "FLINT", dataset="birds").reason == "flint is not in this run"
    assert cell(found, "acc on x̃ (%)", "VisCoIN", dataset="birds").reason.endswith("--metrics accuracy brings it")


def test_ablations_are_carried_over_to_the_size_of_the_run(tmp_path: Path) -> None:
    run = ablated(tmp_path)
    found = filled("14", run)
    labels = [line.labels[0] for line in found.lines if line.variant]
    assert labels == ["γ = 0", "γ = 0.1: gamma = 0.5", "γ = 0.2: gamma = 1", "γ = 0.5: gamma = 2.5"]
    first = cell(found, "FF, τ = 0.2", "γ = 0.5", dataset="birds")
    assert first.measured is not None
    assert first.measured.entry.value == pytest.approx(0.405)
    assert first.published is not None
    assert first.published.text == "0.24"
    assert "PD-p" in found.columns
    # The same cells are no points of other ablations but for the default.
    other = [line for line in filled("18", run).lines if line.variant]
    assert [bool(line.cells[1] and line.cells[1].measured) for line in other] == [False, True, False]


def test_a_point_that_the_paper_lacks_has_a_line_of_its_own(tmp_path: Path) -> None:
    folder = Folder(tmp_path).add("birds", "viscoin", {("mse", ""): (0.1, 0.01)}, preset="birds")
    folder.add("birds", "viscoin", {("mse", ""): (0.2, 0.01)}, 0, "g", ("method.gamma=0.7",), preset="birds")
    found = filled("14", folder.read())
    assert found.lines[-1].labels == ("gamma = 0.7",)
    assert cell(found, "MSE", "gamma = 0.7", dataset="birds").measured is not None


def test_ablations_are_drawn(tmp_path: Path) -> None:
    run = ablated(tmp_path)
    (sweep,) = chosen(["table14"], [], json.loads(settings("birds", "viscoin")))
    drawn = plots(sweep.name, sweep.title, sweep.named, run.numbers, "birds", "viscoin")
    assert [plot.name for plot in drawn] == ["ablation-table14-birds", "tradeoff-table14-birds"]
    panels, trade = (plot.draw() for plot in drawn)
    assert [axes.get_title() for axes in panels.axes] == ["median FF_x, τ = 0.2", "MSE", "PD-p", "FD-f"]
    (line, *_) = trade.axes[0].get_lines()
    assert np.asarray(line.get_xdata()) == pytest.approx([0.5005, 0.4005, 0.3005, 0.2005])
    assert np.asarray(line.get_ydata()) == pytest.approx([0.105, 0.205, 0.305, 0.405])
    (axis,) = chosen([], ["method.gamma=1,2.5"], json.loads(settings("birds", "viscoin")))
    assert re.search(r"\| gamma = 1 +\| +0\.305 ± 0\.007", axis_lines(axis.named, run.numbers, "birds", "viscoin"))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> PaperRun:
    """A run with a number for each place of every table, on CUB-200 and on birds."""
    every: dict[tuple[str, str], tuple[float, float]] = {}
    for table in PAPER.tables:
        for *_, address, value in table.cells():
            every[address.metric, address.params] = ((value.value if value else 1.0) / 100, 0.01)
    folder = Folder(tmp_path_factory.mktemp("both"))
    for dataset in ("cub200", "birds"):
        for method in ("viscoin", "flint"):
            folder.add(dataset, method, every, preset=dataset)
    return folder.read()


class Reader(HTMLParser):
    """Counts tags and keeps text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


@pytest.mark.parametrize("table", PAPER.tables, ids=lambda table: table.id)
def test_each_table_is_written_in_every_format(table: PublishedTable, both: PaperRun) -> None:
    alone = [value.text for *_, value in table.cells() if value]
    for run in (None, both):
        found = build(PAPER, table, run)
        text = render(found, "md")
        for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
            plain = block.replace("\u0303", "").replace("\u0302", "")
            assert len({len(line) for line in plain.splitlines()}) == 1
        rows = list(csv.DictReader(io.StringIO(render(found, "csv"))))
        assert [row["published_text"] for row in rows if row["variant"] == "published"] == alone
        tex = render(found, "tex")
        assert max(tex) < "\u0180"
        assert tex.count(r"\begin{") == tex.count(r"\end{")
        page = Reader()
        page.feed(render(found, "html"))
        assert page.open == []
        for number in alone:
            assert number in text
            assert number in page.text
            assert number.replace(" ± ", r" $\pm$ ").replace("<", "$<$") in tex
    measured = [row for row in rows if row["measured"]]
    # Birds have no ResNet50 as f, and nothing here a transformer.
    assert ("birds" in {row["dataset"] for row in measured}) is (table.id not in ("6", "7"))
    assert all(row["verdict"] for row in measured)
    for row in (row for row in measured if row["difference"]):
        expected = float(row["measured"]) - float(row["published"])
        assert math.isclose(float(row["difference"]), expected, abs_tol=1e-9)


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_the_latex_of_each_table_compiles(both: PaperRun, tmp_path: Path) -> None:
    pages = [render(build(PAPER, table, run), "tex") + r"\clearpage" for table in PAPER.tables for run in (None, both)]
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "page.tex").write_text("\n".join((head, *pages, r"\end{document}")), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_conditions_can_be_set(both: PaperRun) -> None:
    """Every condition and setting names what some cell has, or it would never be checked."""
    trees = [json.loads(settings(dataset, "viscoin")) for dataset in ("cub200", "fashionmnist")]
    for table in PAPER.tables:
        for row in table.rows:
            for path in {**PAPER.main(table.datasets[0]), **PAPER.evaluation(table), **row.setting}:
                keys = parse(f"{path}=1")[0]
                keys = ["method", *keys[2:]] if keys[0] == "methods" else keys
                assert any(_has(tree, keys) for tree in trees), path


def _has(tree: Any, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True
