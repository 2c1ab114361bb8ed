"""Checkpoints and weights that are cut, foreign or of another shape: code 4, the file, and what to delete."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_cell import Place, last_line

from coinbench.artefact import Artefact
from coinbench.errors import DataError, Interrupted
from coinbench.log import Log
from coinbench.work import work


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _foreign(path: Path) -> None:
    save_file({"a": torch.zeros(2)}, path, {"step": "1"})


def _reshaped(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    widest = max((key for key in tensors if "optimiser" not in key), key=lambda key: tensors[key].numel())
    save_file(tensors | {widest: torch.zeros(3, 3)}, path, metadata)


SPOIL = {"cut": _cut, "foreign": _foreign, "reshaped": _reshaped}
Spoil = Callable[[Path], None]


@pytest.fixture(params=SPOIL)
def spoil(request: pytest.FixtureRequest) -> Spoil:
    return SPOIL[request.param]


def test_begun_checkpoint(
    finished: Place, place: Place, spoil: Spoil, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for kind in ("fit", "evaluate", "cell"):
        shutil.rmtree(place.stage(kind))
    log = Log(place.out, lambda event: log.stop.set() if event["stage"] == "fit" else None)
    with pytest.raises(Interrupted):
        work(place.planned, place.cache, torch.device("cpu"), log)
    path = next(place.cache.root.glob("fit/*.partial/checkpoint.safetensors"))
    spoil(path)
    cell = place.describe(tmp_path)
    last_line(place.worker(capfd, cell), 4, path, "delete it to start anew")
    path.unlink()
    assert place.worker(capfd, cell).code == 0
    assert place.numbers() == finished.numbers()


@pytest.mark.parametrize("kind", ["classifier", "fit"])
def test_finished_weights_in_the_cache(
    finished: Place, place: Place, kind: str, spoil: Spoil, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = place.stage(kind)
    spoil(folder / "weights.safetensors")
    cell = place.describe(tmp_path)
    last_line(place.worker(capfd, cell), 4, folder / "weights.safetensors", f"delete {folder} and run again")
    shutil.rmtree(folder)
    assert place.worker(capfd, cell).code == 0
    assert place.numbers() == finished.numbers()


def test_weights_in_the_folder_of_a_cell(place: Place, spoil: Spoil) -> None:
    folder = place.stage("cell")
    spoil(folder / "weights.safetensors")
    with pytest.raises(DataError, match=f"delete {folder} and run again"):
        Artefact(folder).load(place.cache)


def test_a_cell_is_not_loaded_with_an_f_it_was_not_trained_with(place: Place) -> None:
    Artefact(place.stage("cell")).load(place.cache)
    path = place.stage("classifier") / "weights.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    # As after a training on another machine: a last bit is enough.
    save_file(tensors | {"fc.bias": tensors["fc.bias"].nextafter(torch.tensor(1.0))}, path, metadata)
    with pytest.raises(DataError, match=r"was trained with another classifier .* or run its command again") as caught:
        Artefact(place.stage("cell")).load(place.cache)
    assert str(place.stage("cell")) in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"fingerprints": 5}'])
def test_a_cell_that_does_not_say_what_it_was_trained_with(place: Place, content: str) -> None:
    path = place.stage("cell") / "provenance.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=f"delete {path.parent} and run the same command again") as caught:
        Artefact(place.stage("cell")).load(place.cache)
    assert str(caught.value).startswith(f"{path}: does not say what f and G were")


@pytest.mark.parametrize("name", ["results.parquet", "unavailable.json"])
def test_results_in_the_folder_of_a_cell(place: Place, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = place.stage("cell") / name
    path.write_bytes(path.read_bytes()[:1])
    last_line(place.run(capfd, "--quiet"), 4, path, "not readable", f"delete {path.parent} and run the same command")
    path.unlink()
    assert not place.planned.measured, "the cell would not be made again"


def test_pixels_in_the_cache(finished: Place, place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = next(place.cache.root.glob("data/*/train-16.npy"))
    _cut(path)
    cell = place.describe(tmp_path)
    last_line(place.worker(capfd, cell), 4, path, "delete it and run again")
    path.unlink()
    assert place.worker(capfd, cell).code == 0
    assert place.numbers() == finished.numbers()
