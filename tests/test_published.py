"""Published numbers: as printed, whole, consistent with each other; a wrong file is refused with a clear line."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from coinbench import registry
from coinbench.errors import DataError, UsageError
from coinbench.published import find, papers, parse_value, read
from coinbench.published.settings import carried, changed, covers, obstacle

PAPER = papers()["viscoin"]
COPIED = [
    ("1a", "cub200", "FLAEM", "51.76"),
    ("1a", "stanfordcars", "Original-f", "82.28"),
    ("1b", "celebahq", "VisCoIN", "85.5 ± 13.9"),
    ("1b", "stanfordcars", "FLINT", "70 ± 16.3"),
    ("8", "cub200", "VisCoIN", "93.4 ± 6.2"),
    ("9", "stanfordcars", "VisCoIN", "8"),
    ("10", "stanfordcars", "N = 128", "77.20"),
    ("10", "celebahq", "N = 256", None),
]
"""Copied from the paper by hand: table, data set, column, text."""
LABELLED = [
    ("2a", "FID", "FLINT", ["30.45", "53.16", "64.16"]),
    ("2a", "LPIPS", "VisCoIN", ["0.405", "0.545", "0.488"]),
    ("2b", "0.1", "VisCoIN", ["0.267", "0.251", "0.161"]),
    ("2b", "0.4", "FLAEM", ["0.107", "<0.001", "<0.001"]),
    ("2b", "0.2", "Random", ["0.018", "0.007", "0.016"]),
    ("4", "ProgressiveGAN", "FF, τ = 0.2", ["0.37"]),
    ("5", "FLINT", "CC (%)", ["96.2 ± 4.8"]),
    ("6", "ResNet101", "FID", ["11.24"]),
    ("7", "ViT-B/16", "acc of g (%)", ["85.86"]),
    ("11", "FLINT", "AUC-FF", ["0.042"]),
    ("12", "FLINT", "τ = 0.2", ["18.8 ± 20.8"]),
    ("figure8", "VisCoIN", "τ = 0.05", ["92"]),
    ("13", "VisCoIN", "t = 0.2", ["27.1"]),
    ("14", "γ = 0.2", "FID", ["8.84"]),
    ("15", "no Φ′, K = 256", "LPIPS", ["0.584"]),
    ("16", "K = 64", "acc (%)", ["78.91"]),
    ("17", "off", "FID", ["9.43"]),
    ("18", "α = 2", "MSE", ["0.187"]),
    ("19", "δ = 20", "acc (%)", ["76"]),
    ("20", "without Ω", "FID", ["15.96"]),
    ("21", "cross-entropy on labels", "FF, τ = 0.2", ["0.076"]),
]
"""The same where lines have labels: one text for each data set."""
TOTALS = {
    "1a": (12, 927.95, 0),
    "1b": (9, 645.9, 131.8),
    "2a": (27, 346.145, 0),
    "2b": (36, 2.304, 0),
    "4": (12, 371.948, 20.7),
    "5": (12, 369.041, 12.2),
    "6": (13, 447.285, 14.6),
    "7": (5, 188.063, 0),
    "8": (9, 684.4, 136.4),
    "9": (6, 122.93, 0),
    "10": (19, 1227.01, 0),
    "11": (4, 62.949, 0),
    "12": (6, 298.8, 120.4),
    "figure8": (6, 316.0, 0),
    "13": (6, 50.6, 0),
    "14": (16, 52.973, 0),
    "15": (9, 41.143, 0),
    "16": (16, 368.207, 0),
    "17": (8, 185.403, 0),
    "18": (12, 270.956, 0),
    "19": (12, 274.372, 0),
    "20": (8, 191.95, 0),
    "21": (6, 159.656, 0),
}
"""Numbers of each table, their sum and that of the deviations, added up from a second copy of the paper's tables."""


def texts(name: str, where: Callable[..., bool]) -> list[str | None]:
    cells = PAPER.table(name).cells()
    return [value.text if value else None for row, column, address, value in cells if where(row, column, address)]


@pytest.mark.parametrize(("name", "dataset", "title", "text"), COPIED)
def test_numbers_are_those_of_the_paper(name: str, dataset: str, title: str, text: str | None) -> None:
    assert texts(name, lambda _, column, address: (address.dataset, column.title) == (dataset, title)) == [text]


@pytest.mark.parametrize(("name", "label", "title", "expected"), LABELLED)
def test_labelled_numbers_are_those_of_the_paper(name: str, label: str, title: str, expected: list[str]) -> None:
    assert texts(name, lambda row, column, _: column.title == title and row.label.startswith(label)) == expected


@pytest.mark.parametrize("table", PAPER.tables, ids=lambda table: table.id)
def test_each_table_is_whole(table) -> None:
    count, total, spread = TOTALS[table.id]
    values = [value for *_, value in table.cells() if value]
    assert len(values) == count
    assert sum(value.value for value in values) == pytest.approx(total, abs=1e-9)
    assert sum(value.spread or 0 for value in values) == pytest.approx(spread, abs=1e-9)
    addresses = [(row.label, address) for row, _, address, _ in table.cells()]
    assert len(set(addresses)) == len(addresses), "two numbers would be of one thing"
    for *_, address, value in table.cells():
        assert address.dataset in registry.PROBLEMS.names()
        assert address.method in ("", *registry.METHODS.names())
        assert value is None or 0 < value.value <= (100 if address.percent else 70)
        assert address.percent or value is None or value.spread is None
    assert table.protocol
    assert table.n
    assert table.page is None or table.page > 0


def test_all_tables_of_the_paper_are_there() -> None:
    ablations = [str(number) for number in range(4, 22)]
    assert [table.id for table in PAPER.tables if table.id != "figure8"] == ["1a", "1b", "2a", "2b", *ablations]
    assert [table.id for table in PAPER.tables if table.axis] == [str(number) for number in range(14, 22)]


@pytest.mark.parametrize("table", [t for t in PAPER.tables if t.axis], ids=lambda table: table.id)
def test_the_default_line_of_each_ablation_repeats_the_main_tables(table) -> None:
    main = PAPER.main("cub200")
    known = {"accuracy": "79.44", "mse": "0.161", "lpips_vgg": "0.545", "fid": "15.85", "faithfulness": "0.146"}
    same = lambda path, value: main.get(path, main.get(path.replace("method.", "methods.viscoin."))) == value  # noqa: E731
    (usual,) = [row for row in table.rows if all(same(path, value) for path, value in row.setting.items())]
    for row, _, address, value in table.cells():
        if row is usual:
            assert value is not None
            assert value.text == known[address.metric]
    shared = {row.label for row in table.rows} - {usual.label}
    assert len(shared) == len(table.rows) - 1


def test_each_number_is_of_a_metric_that_can_be_measured() -> None:
    rows = {spec.name: spec for name in registry.METRICS.names() for spec in registry.METRICS.load(name).specs}
    for table in PAPER.tables:
        for *_, address, _ in table.cells():
            assert address.metric in rows
            assert not address.percent or rows[address.metric].unit == "fraction"


def test_a_number_is_kept_as_printed() -> None:
    value = parse_value("77.20")
    assert value is not None
    assert (value.text, value.value, value.decimals, value.rounding) == ("77.20", 77.2, 2, 0.005)
    bound = parse_value("<0.001")
    assert bound is not None
    assert (bound.below, bound.value, bound.rounding) == (True, 0.001, 0.0)
    for wrong in ("", "about 3", "1e-3", "3 ± ", "nan"):
        with pytest.raises(ValueError, match="expected a number"):
            parse_value(wrong)


def test_tables_are_found_by_name() -> None:
    for name in ("2a", "table2a", "viscoin-table2a"):
        assert find(name)[1].id == "2a"
    assert find("figure8") == find("viscoin-figure8")
    with pytest.raises(UsageError, match=r"unknown table '22'.*known: 10, 11"):
        find("22")
    with pytest.raises(UsageError, match="unknown published table 'flint-table1'"):
        find("flint-table1")


WRONG = {
    "a number": ("[0.051, 0.119, 0.094]", "[0.051, x, 0.094]", ["tables.2.rows.0.values.1", "expected a number"]),
    "a short line": ("[0.051, 0.119, 0.094]", "[0.051, 0.119]", ["tables.2", "row 0 has 2 numbers, the table 3"]),
    "a key": ("  v1: \"4\"", "  v2: \"4\"", ["tables.", "v2", "not permitted"]),
    "no metric": ("where: {metric: faithfulness}", "where: {}", ["no metric given"]),
    "a data set": ("{dataset: celebahq, values: [82.6", "{dataset: celeba, values: [82.6", ["'celeba' is not among"]),
    "a page": ("  protocol: x̃ against", "  page: last\n  protocol: x̃ against", ["tables.2.page", "integer", "'last'"]),
    "an id": ("- id: 1b", "- id: 1a", ["two tables have one id"]),
    "a setting": ("setting: [method.gamma=0]", "setting: [method.gamma]", ["expected path=value"]),
    "an axis": ("axis: [method.alpha]", "axis: [method.beta]", ["setting must name method.beta"]),
    "a measure": ("  auc_ff:\n", "  auc_fff:\n", ["no table has a number of 'auc_fff'"]),
    "no YAML": ("tables:\n", "tables: [\n", ["not readable as YAML"]),
}  # fmt: skip


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_is_refused_with_the_place(change: tuple[str, str, list[str]], tmp_path: Path) -> None:
    before, after, pieces = change
    text = files("coinbench.published").joinpath("viscoin.yaml").read_text(encoding="utf-8")
    assert before in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read(path)
    for piece in (str(path), *pieces):
        assert piece in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not readable"):
        read(tmp_path / "gone.yaml")
    (tmp_path / "list.yaml").write_text(yaml.safe_dump([1, 2]))
    with pytest.raises(DataError, match=r"list\.yaml: the file"):
        read(tmp_path / "list.yaml")


def test_settings_are_carried_over_by_their_ratio_to_the_default() -> None:
    base = {
        "method": {"name": "viscoin", "K": 24, "gamma": 0.5, "support": True, "orthogonality": 1.0},
        "problem": {"generator": {"net": "beta_vae", "latent": 48}},
    }
    main = PAPER.main("cub200")
    assert carried({"method.K": 64}, main, base) == {"method.K": 6}
    assert carried({"method.gamma": 0.2}, main, base) == {"method.gamma": 1.0}
    assert carried({"method.gamma": 0}, main, base) == {"method.gamma": 0.0}
    assert carried({"method.support": False, "method.K": 512}, main, base) == {"method.support": False, "method.K": 48}
    assert carried({"method.omega": False, "method.K": 512}, main, base)["method.K"] == 48
    assert carried({"method.fidelity": "labels"}, main, base) == {"method.fidelity": "labels"}


def test_an_obstacle_is_the_first_setting_that_differs() -> None:
    tree = {"method": {"name": "flint", "K": 256}, "data": {"size": 256}, "evaluation": {"limit": None}}
    conditions = {"methods.viscoin.gamma": 0.1, "method.K": 256, "data.size": 256, "evaluation.limit": None}
    assert obstacle(tree, conditions) == ""
    assert (
        obstacle({**tree, "evaluation": {"limit": 50}}, conditions) == "evaluation.limit is 50, published with not set"
    )
    assert obstacle({**tree, "method": {"name": "viscoin", "gamma": 0.2, "K": 3}}, conditions).startswith(
        "methods.viscoin.gamma is 0.2"
    )
    assert obstacle({"evaluation": {"c": [0.1, 1]}}, {"evaluation.c": [0.1, 1, 5]}) == (
        "evaluation.c is 0.1, 1, published with 0.1, 1, 5"
    )
    least = {"evaluation.images": 100}
    assert obstacle({"evaluation": {"images": 100}}, {}, least) == ""
    assert obstacle({"evaluation": {"images": 99}}, {}, least) == "evaluation.images is 99, published with 100"
    assert changed({"method": {"K": 3, "g": 1}}, {"method": {"K": 4, "g": 1}}) == {"method.K"}
    assert not covers(("method.K",), "method.support")
