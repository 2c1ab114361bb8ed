"""Generated weights, checkpoints and pixel maps: loaded, or a DataError in one line; nothing else, nothing run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from oracle import edits, for_each, generated, tree_edits
from small_run import SmallRun, make_small_run
from trainings import loss_of, network, settings, stop_at

from coinbench.artefact import Artefact
from coinbench.cache import Cache
from coinbench.errors import CoinbenchError, Interrupted
from coinbench.log import Log
from coinbench.training import train

TYPES = ("F32", "F64", "F16", "BF16", "I64", "I8", "BOOL", "C64", "F8_E4M3", "F4", "X")
Header = dict[str, Any]


@st.composite
def header_edits(draw: st.DrawFn) -> Any:
    """A change of the JSON before the tensors: of any value, or of one that means much."""
    pick = draw(st.integers(0, 99))
    how = draw(st.sampled_from(["tree", "type", "shape", "offsets", "rename", "extra", "swap", "meta", "length"]))
    value = draw(st.sampled_from([0, 1, -1, 7, 2**31, 2**60, 2**64, 10**30]))
    tree, kind, text = (
        draw(tree_edits()),
        draw(st.sampled_from(TYPES)),
        draw(st.sampled_from(["-3", "1e9", "x", "10000"])),
    )

    def edited(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
        names = sorted(header.keys() - {"__metadata__"})
        name, other = names[pick % len(names)], names[(pick + 1) % len(names)]
        if how == "tree":
            header = tree(header)
        elif how == "type":
            header[name]["dtype"] = kind
        elif how == "shape":
            header[name]["shape"] = [value, *header[name]["shape"][1:]]
        elif how == "offsets":
            header[name]["data_offsets"][pick % 2] = value
        elif how == "rename":
            header[name + ".1"] = header.pop(name)
        elif how == "extra":
            header["optimiser.7.exp_avg"] = {"dtype": "F32", "shape": [2], "data_offsets": [len(body), len(body) + 8]}
            body += b"\0" * 8
        elif how == "swap":
            header[name], header[other] = header[other], header[name]
        elif how == "meta":
            header["__metadata__"] = {"step": text, **{k: text for k in header.get("__metadata__", {}) if pick % 2}}
        packed = json.dumps(header).encode()
        packed += b" " * (-len(packed) % 8)
        return struct.pack("<Q", value % 2**64 if how == "length" else len(packed)) + packed + body

    return edited


class Bomb:
    """Runs code where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder / "ran"),)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return make_small_run(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that was cut short after five of its steps."""
    folder, module = tmp_path_factory.mktemp("cut"), network()
    log = Log(folder)
    with pytest.raises(Interrupted):
        train(module, loss_of(module, stop_at(10)(log)), settings(), log)
    return folder


@pytest.mark.filterwarnings("error")
@generated("checkpoints")
def test_a_generated_checkpoint(count: int, run: SmallRun, cut: Path, tmp_path: Path) -> None:
    stored = {
        "f": next(run.cache.glob("classifier/*/weights.safetensors")),
        "G": next(run.cache.glob("generator/*/weights.safetensors")),
        "g": run.cell / "weights.safetensors",
        "pixels": next(run.cache.glob("data/*/train-*.npy")),
    }

    def check(given: tuple[str, Any]) -> None:
        which, edit = given
        if which in stored:
            path, use = stored[which], lambda: Artefact(run.cell).load(Cache(run.cache))
        else:
            folder = Path(shutil.copytree(cut, tmp_path / "cut", dirs_exist_ok=True))
            path, use = folder / which, lambda: _go_on(folder)
        good, refused = path.read_bytes(), None
        try:
            path.write_bytes(edit(good))
            use()
        except CoinbenchError as error:
            refused = error
        finally:
            path.write_bytes(good)
        if refused is not None:
            # Values that no loader can tell from true ones may end in a loss that is not finite; it names the file too.
            assert refused.exit_code == 4 or "the loss is not finite" in str(refused)
            # Sound weights of another f or G: the cell says so, which cannot know whether it or the file was changed.
            foreign = which in ("f", "G") and "was trained with another" in str(refused)
            assert str(run.cell if foreign else path) in str(refused)

    anything = st.tuples(st.sampled_from([*stored, "checkpoint.safetensors", "train.csv"]), edits())
    pickled = st.tuples(
        st.sampled_from([*stored, "checkpoint.safetensors"]), st.just(lambda _: pickle.dumps(Bomb(tmp_path)))
    )
    headers = st.tuples(
        st.sampled_from(["f", "G", "g", "checkpoint.safetensors", "checkpoint.safetensors"]), header_edits()
    )
    for_each(st.one_of(anything, headers, headers, pickled), count, check)
    assert not (tmp_path / "ran").exists(), "code from a file was run"


def _go_on(folder: Path) -> None:
    module = network()
    train(module, loss_of(module), settings(checkpoint_seconds=60), Log(folder))
