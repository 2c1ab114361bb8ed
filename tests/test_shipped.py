"""The weights that come with coinbench: found by the embedded default, whole, and as good as their card says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coinbench import digests, outlook, shipped
from coinbench.cache import Cache
from coinbench.config import Cell
from coinbench.files import read_json
from coinbench.judge import judge_by
from coinbench.log import Log
from coinbench.plan import Request, cells, resolve
from coinbench.pretrain import load_problem
from coinbench.problem import Problem

KINDS = ("classifier", "perceptual", "generator")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def cell(cache: Cache) -> Cell:
    """What `coinbench run --methods viscoin --dataset birds` runs."""
    return cells(resolve(Request(methods="viscoin", datasets="birds")), cache, Path("."))[0].cell


@pytest.fixture(scope="module")
def problem(cell: Cell, cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    events: list = []
    found = load_problem(cell, cache, torch.device("cpu"), Log(tmp_path_factory.mktemp("log"), events.append))
    assert not [event for event in events if "step" in event and event["stage"] != "data"], "nothing is trained"
    return found


def test_every_network_of_the_birds_is_shipped_and_whole(cell: Cell, cache: Cache, tmp_path: Path) -> None:
    found = {kind: shipped.find(kind, getattr(cell.problem, kind), cell) for kind in KINDS}
    assert all(found.values()), found
    assert sum(entry.check().stat().st_size for entry in found.values() if entry) <= 8 * 10**6
    request = Request(methods="viscoin", datasets="birds")
    (row,) = outlook.rows(outlook.survey(resolve(request), cache, tmp_path), cache)
    assert {row[kind] for kind in KINDS} == {"shipped"}
    assert row["steps"] == cell.method.train.steps, "only the method is trained"


def test_truncation_keeps_the_shipped_generator_and_fits_the_method_anew(cell: Cell, cache: Cache) -> None:
    request = Request(methods="viscoin", datasets="birds", sets=("problem.generator.truncation=0.7",))
    other = cells(resolve(request), cache, Path("."))[0].cell
    assert shipped.find("generator", other.problem.generator, other)
    assert digests.generator_digest(other) == digests.generator_digest(cell)
    assert digests.fit_digest(other) != digests.fit_digest(cell)


@pytest.mark.parametrize("folder", sorted(shipped.assets().iterdir()), ids=lambda folder: folder.name)
def test_each_folder_has_a_card_a_page_and_samples(folder: Path) -> None:
    card = read_json(folder / shipped.CARD)
    named = {entry["file"] for entry in card["networks"].values()}
    assert {path.name for path in folder.iterdir()} == named | {shipped.CARD, "README.md", "samples.png"}
    page = (folder / "README.md").read_text(encoding="utf-8")
    for told in (card["command"], card["git"]["commit"][:12], "Licence", *card["figures"], *card["networks"]):
        assert told in page
    assert not card["git"]["dirty"]
    assert card["networks"]["generator"]["images shown"] >= 500_000


def test_f_and_g_are_as_good_as_their_card_says(problem: Problem, cell: Cell) -> None:
    entry = shipped.find("classifier", cell.problem.classifier, cell)
    assert entry is not None
    figures = read_json(entry.path.parent / shipped.CARD)["figures"]
    with torch.no_grad():
        right = sum(
            int((problem.classifier(b.images).logits.argmax(1) == b.labels).sum()) for b in problem.test.batches(250)
        )
    assert 100 * right / len(problem.test) == pytest.approx(figures["accuracy of f on the test images (%)"], abs=0.5)
    judged = judge_by(problem.classifier, problem.train)(problem.generator)
    assert judged["fd_f"] == pytest.approx(figures["fd_f"], rel=0.02)
    # Every class is drawn: chance is 10 %.
    assert judged["rarest class (%)"] > 2
