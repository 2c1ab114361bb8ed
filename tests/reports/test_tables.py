"""Tables: what stands where, what is marked, what is said to be missing."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from coinbench import results
from coinbench.errors import DataError
from coinbench.inference import Measured
from coinbench.reports import report
from coinbench.reports.folder import Series, read_folder, records_of, series_of
from coinbench.reports.layout import Column, Entry, Row, Table
from coinbench.reports.render import escape_tex, to_frame, to_latex, to_markdown, write_table
from coinbench.reports.tables import build_tables, print_tables
from coinbench.reports.verdicts import judge
from coinbench.results import Resamples

Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(make_run: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), images=False)


def table_of(folder: Path, name: str) -> Table:
    run = read_folder(folder)
    return next(t for t in build_tables(run.records, run=run) if t.name == name)


def marks(values: list[float | None], better: bool | None, error: float | None = 0.01) -> list[str]:
    """The marks of a row whose numbers have such a standard error over 100 images; None: without resamples."""
    columns = [Column(title=str(i), series=Series(str(i), "default", str(i))) for i in range(9)]
    entries = [None if v is None else Entry(value=v, seeds=(0,), n=100) for v in values]
    columns = [*columns[: len(values)], Column(title="null")]
    normal = scipy.stats.norm.ppf(np.arange(0.5, 400) / 400)
    drawn = {
        i: Resamples(v + (error or 0) * np.random.default_rng(i).permutation(normal) / 2**0.5, "images", 0)
        for i, v in enumerate(values)
        if v is not None
    }
    measured = {
        i: [Measured(value=v, seed=0, n=100, resamples=None if error is None else drawn[i])]
        for i, v in enumerate(values)
        if v is not None
    }
    row = Row(
        labels=("d", "q"),
        quantity="q",
        dataset="d",
        metric="m",
        entries=(*entries, Entry(value=1e9 if better else -1e9, seeds=(0,), n=9)),
        unit="raw",
        decimals=1,
        higher_is_better=better,
        verdicts=judge(measured),
    )
    table = Table(name="t", title="T", headers=("a", "b"), columns=tuple(columns), rows=(row,))
    return table.marks(row)[:-1]


def test_best_and_second_follow_the_direction_and_ignore_controls() -> None:
    assert marks([1.0, 3.0, 2.0], better=True) == ["", "best", "second"]
    assert marks([1.0, 3.0, 2.0], better=False) == ["best", "", "second"]
    assert marks([1.0, 3.0, 2.0], better=None) == ["", "", ""]


def test_a_tie_with_the_best_is_said_and_never_bold() -> None:
    assert marks([1.02, 1.01, 0.5], better=True) == ["tie", "tie", ""]
    assert marks([1.02, 1.01, 0.5], better=True, error=0.001) == ["best", "second", ""]
    # Two rivals of equal rank leave no second place.
    assert marks([2.0, 1.01, 1.02], better=True) == ["best", "", ""]
    assert marks([1.02, 1.01], better=False, error=0.001) == ["", "best"]


def test_holm_makes_a_difference_of_two_a_tie_of_many() -> None:
    # 2.3 standard errors: p = 0.024, and six comparisons of four methods that none of the others settles.
    assert marks([1.023, 1.0], better=True) == ["best", ""]
    assert marks([1.023, 1.0, 1.001, 1.002], better=True) == ["tie", "tie", "tie", "tie"]


def test_without_resamples_nothing_is_marked() -> None:
    assert marks([1.0, 3.0], better=True, error=None) == ["", ""]


def test_a_single_method_is_not_marked() -> None:
    assert marks([1.0], better=True) == [""]
    assert marks([1.0, None], better=True) == ["", ""]


def test_tables_are_laid_out_as_in_the_paper(folder: Path) -> None:
    titles = [column.title for column in table_of(folder, "accuracy").columns]
    assert titles == ["Chance", "Original-f", "FLINT", "VisCoIN"]
    assert [c.title for c in table_of(folder, "consistency").columns] == ["FLINT", "VisCoIN"]
    faithfulness = table_of(folder, "faithfulness")
    assert faithfulness.columns[0].title == "Random removal"
    assert [row.params for row in faithfulness.rows[:3]] == ["tau=0.1", "tau=0.2", "tau=0.4"]
    reconstruction = table_of(folder, "reconstruction")
    assert [r.labels[1] for r in reconstruction.rows[:4]] == ["MSE ↓", "PD-p ↓", "FD-p ↓", "FD-f ↓"]


def test_entries_are_mean_and_spread_over_seeds(folder: Path) -> None:
    scores = results.read(folder)
    one = scores[(scores.metric == "accuracy") & (scores.arm == "method")]
    one = one[(one.method == "viscoin") & (one.dataset == "birds")]["value"]
    entry = table_of(folder, "accuracy").rows[0].entries[3]
    assert entry is not None
    assert entry.value == pytest.approx(np.mean(one))
    assert entry.spread == pytest.approx(np.std(one, ddof=1))


def test_consistency_spreads_over_concepts(folder: Path) -> None:
    by_seed: dict[int, list[float]] = {}
    for r in read_folder(folder).records:
        key = (r.metric, r.arm, r.method, r.dataset, r.params)
        if key == ("consistency", "method", "flint", "birds", "lambda=2") and r.subject != "all":
            by_seed.setdefault(r.seed, []).append(r.value)
    assert [len(values) for values in by_seed.values()] == [12, 12, 12]
    entry = table_of(folder, "consistency").rows[0].entries[0]
    assert entry is not None
    assert entry.value == pytest.approx(np.mean([np.mean(v) for v in by_seed.values()]))
    assert entry.spread == pytest.approx(np.mean([np.std(v, ddof=1) for v in by_seed.values()]))


def test_dead_concepts_count_with_their_score(folder: Path) -> None:
    table = results.read(folder)
    mine = (table["metric"] == "consistency") & (table["arm"] == "method") & (table["method"] == "flint")
    mine &= (table["dataset"] == "birds") & (table["params"] == "lambda=2") & table["subject"].str.startswith("concept")
    table.loc[mine, ["value", "n"]] = [0.9, 200]
    dead = mine & table["subject"].isin([f"concept:{k}" for k in range(6)])
    table.loc[dead, ["value", "n"]] = [0.5, 0]
    shown = next(t for t in build_tables(records_of(table)) if t.name == "consistency").rows[0].entries[0]
    assert shown is not None
    assert shown.value == pytest.approx(0.7)


def test_random_removal_is_that_of_viscoin(folder: Path) -> None:
    table = table_of(folder, "faithfulness")
    own = next(row for row in table.rows if row.arm == "random")
    assert table.rows[0].entries[0] == own.entries[2]
    assert "as many concepts as VisCoIN removed" in table.caption


def test_random_removal_names_its_lender_without_viscoin(make_run: Maker, tmp_path: Path) -> None:
    run = make_run(tmp_path, methods=("senn", "flint"), images=False)
    assert "as many concepts as SENN removed" in table_of(run, "faithfulness").caption


def test_captions_give_n_and_the_full_protocol(folder: Path) -> None:
    for table in build_tables(read_folder(folder).records):
        assert "n = " in table.caption
        assert "r_{k,c} ≥ 0, 100 % of images" in table.caption


def test_one_seed_prints_the_interval(make_run: Maker, tmp_path: Path) -> None:
    table = table_of(make_run(tmp_path, seeds=(4,), images=False), "accuracy")
    assert "One seed (4): between-seed uncertainty not estimable" in table.caption
    text = table.texts(table.rows[0])[-1]
    value, low, high = (float(number) for number in re.findall(r"[\d.]+", text))
    assert high - value == pytest.approx(1.0, abs=0.11)
    assert value - low == pytest.approx(1.0, abs=0.11)


def test_five_seeds_give_an_interval_and_tests_over_seeds(make_run: Maker, tmp_path: Path) -> None:
    run = make_run(tmp_path, datasets=("birds",), seeds=range(5), images=False)
    folder, table = read_folder(run), table_of(run, "accuracy")
    assert "Mean [low, high] over 5 seeds (0, 1, 2, 3, 4), a 95 % t interval over seeds." in table.caption
    values = [r.value for r in folder.records if r.metric == "accuracy" and r.arm == "method" and r.method == "viscoin"]
    entry = table.rows[0].entries[3]
    assert entry is not None
    expected = scipy.stats.t.interval(0.95, 4, np.mean(values), scipy.stats.sem(values))
    assert (entry.low, entry.high) == pytest.approx(expected)
    assert table.marks(table.rows[0]) == ["", "", "", "best"]
    assert "after Holm's correction over the pairs of a row, paired over images and 5 seeds" in table.caption
    assert re.search(r"four times in five: birds: accuracy \d\.\d, accuracy on x̃ \d\.\d", table.caption)


def test_missing_cells_print_a_dash_and_are_named(make_run: Maker, tmp_path: Path) -> None:
    failed = [("flint", "digits", seed) for seed in range(3)] + [("viscoin", "birds", 1)]
    run = make_run(tmp_path, failed=failed, without=("pd_p", "sparsity"), images=False)
    accuracy = table_of(run, "accuracy")
    row = next(row for row in accuracy.rows if row.dataset == "digits")
    assert accuracy.texts(row)[2] == "–"
    assert "FLINT on digits (all rows)" in accuracy.caption
    assert "VisCoIN on birds (seed 1)" in accuracy.caption
    assert "Not measured in this run: PD-p." in table_of(run, "reconstruction").caption
    assert not table_of(run, "sparsity").rows
    assert "Not measured" in to_markdown(table_of(run, "sparsity"))


def test_a_method_that_failed_everywhere_keeps_its_column(make_run: Maker, tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        datasets=("birds",),
        seeds=(0,),
        failed=[("viscoin", "birds", 0)],
        images=False,
    )
    text = print_tables(run)
    assert "VisCoIN on birds (all rows)" in text
    assert "as many concepts as FLINT removed" in text
    assert "**8" not in text, "one method is not marked"


def test_a_nan_is_missing(folder: Path) -> None:
    scores = results.read(folder)
    hit = (scores.metric == "mse") & (scores.method == "flint") & (scores.dataset == "birds")
    scores.loc[hit & (scores.arm == "method"), "value"] = math.nan
    table = next(t for t in build_tables(records_of(scores)) if t.name == "reconstruction")
    assert table.texts(table.rows[0])[2] == "–"
    assert "FLINT on birds (MSE)" in table.caption
    assert table.marks(table.rows[0]) == ["", "", "", ""]


def test_variants_have_columns_of_their_own(make_run: Maker, tmp_path: Path) -> None:
    run = make_run(tmp_path, methods=("viscoin",), variants=("default", "gamma=0"), images=False)
    titles = [column.title for column in table_of(run, "sparsity").columns]
    assert titles == ["VisCoIN (default)", "VisCoIN (gamma=0)"]


def test_image_folders_are_called_by_their_titles(make_run: Maker, tmp_path: Path) -> None:
    given = {"datasets": ("imagefolder",), "methods": ("flint",), "seeds": (0,), "variants": ("a", "b")}
    run = make_run(tmp_path / "1", **given, data={"a": "faces", "b": "my_cars & co"}, images=True)
    row_labels = {row.labels[0] for row in table_of(run, "accuracy").rows}
    assert row_labels == {"faces", "my_cars & co"}
    assert r"my\_cars \& co & accuracy" in to_latex(table_of(run, "accuracy"))
    files = report(run)
    page = files.html.read_text(encoding="utf-8")
    assert "FLINT (a), FLINT (b) on faces, my_cars &amp; co" in page
    assert "reconstructions-my_cars-co" in {path.stem for path in files.figures}
    # Two folders of one name stay apart, whatever they are called.
    run = make_run(tmp_path / "2", **given, data={"a": "faces", "b": "faces"}, fingerprint="", images=False)
    assert {row.labels[0] for row in table_of(run, "accuracy").rows} == {"faces [a]", "faces [b]"}


def test_a_part_of_a_data_set_is_called_so(make_run: Maker, tmp_path: Path) -> None:
    run = make_run(tmp_path, methods=("flint",), datasets=("cub200",), seeds=(0,), images=False)
    (path,) = run.glob("cells/*/cell.json")
    cell = json.loads(path.read_text())
    for data, label in (
        ({"complete": True}, "cub200"),
        ({"complete": False}, "cub200 (part)"),
        ({"complete": False, "title": "CUB-50"}, "CUB-50"),
    ):
        path.write_text(json.dumps(cell | {"data": data}))
        assert {row.labels[0] for row in table_of(run, "accuracy").rows} == {label}


def test_a_method_with_an_f_of_its_own_is_marked(make_run: Maker, tmp_path: Path) -> None:
    run = make_run(tmp_path, methods=("random", "flint", "flaem", "senn", "viscoin"), datasets=("birds",), images=False)
    table = table_of(run, "accuracy")
    titles = [column.title for column in table.columns]
    assert titles == ["Chance", "Original-f", "Random concepts", "FLINT", "FLAEM†", "SENN", "VisCoIN"]
    own = next(row for row in table.rows if row.metric == "accuracy_own_f")
    assert own.labels[1] == "accuracy of its own f"
    assert [text for text in table.texts(own)[2:] if text != "–"] == ["90.0 ± 0.0"]
    assert set(table.marks(own)) == {""}
    assert "† Trained with its own classifier, so Original-f is not its f." in table.caption
    assert "Missing" not in table.caption
    assert r"FLAEM\dag{}" in to_latex(table)
    assert "†" not in table_of(make_run(tmp_path / "without", datasets=("birds",), images=False), "accuracy").caption
    assert [column.title for column in table_of(run, "sparsity").columns] == [t.removesuffix("†") for t in titles[2:]]


def test_viscoin_stands_last_and_plug_ins_as_given() -> None:
    keys = [(name, "default") for name in ("viscoin", "b", "a", "flaem", "flint")]
    given = {"viscoin": "VisCoIN", "b": "B-Net", "a": "A-Net"}
    assert [s.title for s in series_of(keys, given)] == ["FLINT", "FLAEM", "B-Net", "A-Net", "VisCoIN"]


def test_terminal_tables_are_aligned(folder: Path) -> None:
    text = print_tables(folder)
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(blocks) == 5
    for block in blocks:
        plain = block.replace("\u0303", "").replace("\u0302", "")
        assert len({len(line) for line in plain.splitlines()}) == 1
    rows_alone = print_tables(results.read(folder))
    assert "Not marked, since not comparable (no resamples stored): all rows." in rows_alone
    assert "**" in text.replace("**Accuracy", "")


def test_csv_holds_the_numbers_unrounded(folder: Path, tmp_path: Path) -> None:
    table = table_of(folder, "reconstruction")
    paths = write_table(table, tmp_path)
    assert [path.name for path in paths] == [f"reconstruction.{e}" for e in ("md", "tex", "csv")]
    written = pd.read_csv(paths[2])
    entry = table.rows[0].entries[3]
    assert entry is not None
    row = written[(written.dataset == "birds") & (written.metric == "mse")]
    assert row[row.method == "viscoin"]["value"].item() == entry.value
    assert "best" in set(written["mark"])
    assert len(written) == len(to_frame(table))


def test_a_frame_without_a_number_is_an_error() -> None:
    with pytest.raises(DataError, match="no number"):
        build_tables([])


def test_latex_escapes_and_uses_math() -> None:
    assert escape_tex("a&b 5% #1_{k}") == r"a\&b 5\% \#1\_\{k\}"
    assert escape_tex("x̃ ± τ, ĉ") == r"$\tilde{x}$ $\pm$ $\tau$, $\hat{c}$"
    assert escape_tex("Hélène") == "Hélène"
    assert escape_tex("鳥") == "?"


def test_latex_is_balanced_and_readable(folder: Path) -> None:
    for table in build_tables(read_folder(folder).records):
        text = to_latex(table)
        assert max(text) < "\u0180", "pdflatex knows the Latin letters and no others"
        assert text.count(r"\begin{") == text.count(r"\end{") == 2
        assert text.replace(r"\{", "").count("{") == text.replace(r"\}", "").count("}")
        body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        columns = len(table.headers) + len(table.columns)
        assert [len(re.findall(r"(?<!\\)&", line)) for line in lines] == [columns - 1] * len(lines)
        assert len(lines) == len(table.rows)


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles(folder: Path, tmp_path: Path) -> None:
    tables = build_tables(read_folder(folder).records)
    inputs = []
    for table in tables:
        write_table(table, tmp_path)
        inputs.append(rf"\input{{{table.name}}}\clearpage")
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    page = "\n".join((head, *inputs, r"\end{document}"))
    (tmp_path / "page.tex").write_text(page)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
