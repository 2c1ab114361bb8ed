"""The report as a whole: figures, page, incomplete folders, no torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from commands import in_process, one_line
from filelock import FileLock
from PIL import Image

from coinbench import results
from coinbench.errors import DataError
from coinbench.reports import gallery, report, sheets
from coinbench.reports.folder import Series, read_folder, series_of

Maker = Callable[..., Path]
_VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """What a page holds: open tags that were never closed, ids, links and images."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.headings: list[int] = []
        self.language: str | None = None
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.ids += [str(values["id"])] if "id" in values else []
        self.links += [str(values["href"])] if "href" in values else []
        if tag == "img":
            self.images.append(values)
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append(int(tag[1]))
        if tag == "html":
            self.language = values.get("lang")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def exhibits(run: Path, method: str = "viscoin") -> gallery.Exhibits:
    cell = read_folder(run).cell("birds", series_of([(method, "default")])[0])
    assert cell is not None
    return gallery.read(cell)


@pytest.fixture(scope="module")
def folder(make_run: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    return make_run(path, datasets=("birds",), seeds=(0, 1), failed=[("flint", "birds", 1)])


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    before = matplotlib.rcParams.copy()
    files = report(folder)
    assert matplotlib.rcParams.copy() == before
    assert all(path.stat().st_size > 0 for path in (*files.tables, *files.figures, files.html))
    return files.html.read_text(encoding="utf-8")


def test_every_table_and_figure_is_written(folder: Path, text: str) -> None:
    assert text
    tables = {path.name for path in (folder / "tables").iterdir()}
    names = ("accuracy", "consistency", "reconstruction", "faithfulness", "sparsity")
    assert tables == {f"{name}.{end}" for name in names for end in ("md", "tex", "csv")}
    figures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert figures == {path.stem for path in (folder / "figures").glob("*.pdf")}
    assert figures == {
        "faithfulness-birds",
        "consistency-birds",
        "reconstructions-birds",
        "training-birds",
        "concepts-birds-flint",
        "concepts-birds-viscoin",
        "local-birds-flint",
        "local-birds-viscoin",
    }
    assert not list(folder.rglob(".*"))


def test_the_page_stands_alone(text: str) -> None:
    page = Page(text)
    assert not page.open
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "url(" not in text
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in page.images)
    assert all(image["alt"] and image["width"] and image["height"] for image in page.images)
    assert len(page.images) == len({image["alt"] for image in page.images}), "an alt text tells two images apart"
    assert len(page.ids) == len(set(page.ids))
    assert page.language == "en"
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(page.headings)), "a level is left out"
    assert page.links
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 1_000_000


def test_the_page_tells_what_was_run_and_what_failed(text: str) -> None:
    assert "coinbench run --methods flint,viscoin" in text
    assert "flint on birds, seed 1: failed (loss is not a number at step 120 &lt;total&gt;)." in text
    assert "versions.torch" in text
    assert "f1f1" in text
    assert "mse in [-1, 1]" in text
    assert "x̃ replaced by the mean training image" in text


def test_one_method_without_images_and_metrics(make_run: Maker, tmp_path: Path) -> None:
    without = ("consistency", "consistency_shift", "dead_concepts", "mse")
    run = make_run(tmp_path, methods=("viscoin",), datasets=("birds",), seeds=(0,), images=False, without=without)
    files = report(run)
    said = " ".join(files.missing)
    assert "Table Consistency (%): nothing was measured." in said
    assert "Images: no reconstructions of VisCoIN on birds." in said
    assert "Images: no concept sheet of VisCoIN on birds." in said
    assert "Not measured in this run: MSE." in said
    assert {p.stem for p in files.figures} == {"faithfulness-birds", "training-birds"}
    assert all(line in files.html.read_text(encoding="utf-8") for line in files.missing)


def test_broken_cells_do_not_stop_the_report(make_run: Maker, tmp_path: Path) -> None:
    run = make_run(tmp_path, datasets=("birds",), seeds=(0,))
    cell = run / "cells" / "birds-flint-0-default"
    (cell / "images" / "index.json").write_text("{")
    (run / "cells" / "half").mkdir()
    (run / "cells" / "half" / "cell.json").write_text('{"dataset"')
    (cell / "train.csv").write_text("step")
    (cell / "provenance.json").write_text("[1]")
    other = run / "cells" / "birds-viscoin-0-default" / "images"
    (other / "sheet-00-0.png").write_bytes(b"no image")
    (other / "local-01.png").unlink()
    (run / "config.json").write_text('{"name": "of something else"}')
    files = report(run)
    assert any("? on ?, seed 0: unfinished" in line for line in files.missing)
    assert "?" not in (run / "tables" / "accuracy.md").read_text(encoding="utf-8")
    assert "Images: no concept sheet of FLINT on birds." in files.missing
    assert "Images: missing or not readable for FLINT on birds: index.json." in files.missing
    assert "Images: missing or not readable for VisCoIN on birds: sheet-00-0.png, local-01.png." in files.missing
    assert "Configuration: config.json is missing, or not that of a run." in files.missing
    assert "of something else" not in files.html.read_text(encoding="utf-8")
    images = exhibits(run)
    assert images.sheet is not None
    assert [len(pair.rows) for pair in images.sheet.items] == [2, 3, 3, 3, 3]
    assert images.local is not None
    assert [image.index for image in images.local.items] == [40, 42, 43]


FOREIGN = [
    "[]",
    '{"lambdas": 3, "sheet": [{}], "local": "x", "reconstructions": {}}',
    '{"reconstructions": 3, "sheet": [3]}',
]


@pytest.mark.parametrize("index", FOREIGN)
def test_an_index_of_something_else_holds_no_images(folder: Path, index: str) -> None:
    path = folder / "cells" / "birds-viscoin-0-default" / "images" / "index.json"
    before = path.read_text()
    path.write_text(index)
    assert exhibits(folder) == gallery.Exhibits(broken=("index.json",))
    path.write_text(before)
    assert exhibits(folder).broken == ()


def test_a_run_from_before_there_were_single_images(make_run: Maker, tmp_path: Path) -> None:
    run = make_run(tmp_path, methods=("viscoin",), datasets=("birds",), seeds=(0,))
    path = run / "cells" / "birds-viscoin-0-default" / "images" / "index.json"
    index = json.loads(path.read_text())
    del index["local"]
    path.write_text(json.dumps(index))
    files = report(run)
    assert files.missing == ("Images: no single images of VisCoIN on birds.",)
    assert 'id="concepts"' in files.html.read_text(encoding="utf-8")
    assert 'id="singles"' not in files.html.read_text(encoding="utf-8")


def test_names_are_text_whatever_they_hold(make_run: Maker, tmp_path: Path) -> None:
    # A pair of dollar signs is mathematics to matplotlib, and a letter that its font lacks a warning.
    run = make_run(tmp_path, methods=("viscoin",), datasets=("birds",), seeds=(0,), variants=("$\\frac$ 鳥",))
    files = report(run)
    assert "$\\frac$ 鳥" in files.html.read_text(encoding="utf-8")
    assert any("concepts" in path.name for path in files.figures)


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no results\.parquet"):
        report(tmp_path)


def test_results_without_a_number_are_an_error(make_run: Maker, tmp_path: Path) -> None:
    run = make_run(tmp_path, datasets=("birds",), seeds=(0,), images=False)
    table = results.read(run)
    table["value"] = float("nan")
    results.write(table, run)
    with pytest.raises(DataError, match="no number"):
        report(run)


def test_changes_are_positive_parts_and_energy_in_one_scale(folder: Path) -> None:
    sheet = exhibits(folder).sheet
    assert sheet is not None
    assert sheet.headers == ("original", "λ = 0", "λ = 1", "λ = 4", "4 − 1", "1 − 4", "energy")
    assert sheet.items[0].relevance == 0.93
    for row in (row for pair in sheet.items for row in pair.rows):
        change = row[3].astype(float) - row[2]
        added, removed, energy = row[4:].astype(float)
        np.testing.assert_array_equal(added, np.clip(np.round(change * sheet.scale.gain), 0, 255))
        np.testing.assert_array_equal(removed, np.clip(np.round(-change * sheet.scale.gain), 0, 255))
        assert added.any()
        assert removed.any()
        squared = (change**2).sum(axis=-1) / 127.5**2
        np.testing.assert_allclose(energy[..., 0], np.clip(squared / sheet.scale.white, 0, 1) * 255, atol=1)


def test_single_images_show_the_concepts_that_were_recorded(folder: Path) -> None:
    sheet = exhibits(folder).local
    assert sheet is not None
    assert sheet.headers[0] == "λ = 0"
    image = sheet.items[2]
    assert [(part.concept, part.relevance) for part in image.parts] == [(3, 1.0), (0, 0.4), (5, -0.3)]
    strip = gallery.read_strip(folder / "cells" / "birds-viscoin-0-default" / "images" / "local-02.png", [32, 32])
    assert strip is not None
    np.testing.assert_array_equal(image.parts[1].tiles[:3], strip[4:7])
    np.testing.assert_array_equal(image.tiles, strip[[0, 2]])


@pytest.mark.parametrize("side", [8, 16, 32, 64])
def test_no_picture_lies_over_another_or_beyond_the_edge(side: int) -> None:
    tiles = np.zeros((7, side, side, 3), np.uint8)
    headers = ("original", "λ = 0", "λ = 1", "λ = 4", "4 − 1", "1 − 4", "energy")
    scale = gallery.Scale(1.0, 1.0)
    pairs = gallery.Sheet(headers, (gallery.Pair("a", 1, 0.5, (tiles,) * 3),) * 2, scale)
    part = gallery.Part(1, 0.5, tiles[1:])
    local = gallery.Sheet(headers[1:], (gallery.Local(0, "a", "a", tiles[:2], (part,) * 3),) * 3, scale)
    series = Series("viscoin", "default", "VisCoIN")
    found = gallery.Reconstructions(np.zeros((10, side, side, 3), np.uint8), tiles.repeat(2, 0)[:10], (0,), ("a",) * 10)
    images = {("d", series): gallery.Exhibits(found, pairs, local)}
    plots = sheets.plots(images, "d", [series])
    assert len(plots) == 3
    for plot in plots:
        (axes,) = plot.draw().axes
        boxes = [image.get_extent() for image in axes.get_images()]
        for left, right, low, high in boxes:
            assert 0 <= left < right <= axes.get_xlim()[1] + 1e-6
            assert 0 <= high < low <= axes.get_ylim()[0] + 1e-6
        for i, one in enumerate(boxes):
            for other in boxes[:i]:
                beside = one[0] >= other[1] or other[0] >= one[1]
                assert beside or one[3] >= other[2] or other[3] >= one[2]


def test_strips_are_cut_and_joined(tmp_path: Path) -> None:
    pixels = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    Image.fromarray(pixels).save(tmp_path / "strip.png")
    tiles = gallery.read_strip(tmp_path / "strip.png", [4, 4])
    assert tiles is not None
    np.testing.assert_array_equal(tiles[1], pixels[:, 4:])
    joined = gallery.join(tiles, gap=1, size=8)
    assert joined.shape == (8, 18, 4)
    np.testing.assert_array_equal(joined[::2, 10::2, :3], pixels[:, 4:])
    assert (joined[:, 8:10] == 0).all()
    assert gallery.read_strip(tmp_path / "strip.png", [4, 3]) is None


def test_a_copied_folder_is_reported_and_compared_without_torch(make_run: Maker, tmp_path: Path) -> None:
    run = make_run(tmp_path / "made", methods=("viscoin",), datasets=("birds",), seeds=(0,))
    copy = shutil.copytree(run, tmp_path / "elsewhere")
    shutil.rmtree(run)
    code = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision'): raise ImportError('no torch here')\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "from coinbench.cli import main\n"
        "sys.argv = ['coinbench', *sys.argv[1:]]\n"
        "main()"
    )
    for words in (("report", copy), ("compare", copy, copy)):
        command = [sys.executable, "-W", "error", "-c", code, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert len(list((copy / "figures").iterdir())) == 12
    assert "0 differ" in done.stdout


def test_a_report_waits_for_no_run_and_makes_no_folder(
    make_run: Maker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", datasets=("birds",), seeds=(0,), images=False)
    with FileLock(run / ".lock"):
        one_line(in_process(capfd, "report", run), 2, "another run is using this folder")
    (run / "results.parquet").write_bytes(b"PAR1")
    one_line(in_process(capfd, "report", run), 4, "results.parquet", "not readable")
    one_line(in_process(capfd, "report", tmp_path / "none"), 4, "no results.parquet")
    assert not (tmp_path / "none").exists()
