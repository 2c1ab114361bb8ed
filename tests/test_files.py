"""Files that are whole or not there, and weights."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from coinbench import weights
from coinbench.errors import CoinbenchError, DataError
from coinbench.files import read_json, write_atomically, write_json
from coinbench.rng import Rng, seeded


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_a_write_replaces_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"b": 1, "a": "β"})
    write_json(path, {"b": 2, "a": "β"})
    assert list(read_json(path).items()) == [("b", 2), ("a", "β")]
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def half_write(path: Path, error: BaseException) -> None:
    with write_atomically(path) as temporary:
        temporary.write_bytes(b"half")
        assert path.read_bytes() == b"old"
        assert temporary.suffix == path.suffix
        raise error


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        half_write(path, error)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(CoinbenchError) as caught:
        half_write(path, OSError(errno.ENOSPC, "No space left on device"))
    assert one_line(caught.value).startswith(f"{path}: cannot be written (No space left on device); free space")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CoinbenchError, match="cannot be written"):
        write_json(tmp_path / "file" / "a.json", 1)


_FULL = """
import resource, sys
from pathlib import Path
import torch
from coinbench import weights
from coinbench.errors import CoinbenchError
from coinbench.log import Log
from coinbench.training import _State
from coinbench.config import TrainConfig
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
module = torch.nn.Linear(100, 100)
state = _State(module, TrainConfig(steps=1), (), None, Log(Path(sys.argv[1])))
for write in (lambda p: weights.save(module, p), lambda p: state.save(p, 1)):
    path = Path(sys.argv[1]) / "w.safetensors"
    try:
        write(path)
    except CoinbenchError as error:
        assert str(error).startswith(f"{path}: cannot be written ("), error
        assert "\\n" not in str(error)
    else:
        raise SystemExit("written beyond the limit")
    assert not list(path.parent.iterdir()), "left something behind"
"""


def test_weights_and_checkpoints_on_a_full_disk_are_one_line(tmp_path: Path) -> None:
    # A limit on the size of files stands for a full disk: the write itself fails, wherever it is done.
    done = subprocess.run([sys.executable, "-c", _FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_json_that_is_missing_or_broken_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CoinbenchError, match="no such file"):
        read_json(tmp_path / "none.json")
    path = tmp_path / "a.json"
    for content in (b'{"a": 1', b"\xff\xfe", b""):
        path.write_bytes(content)
        with pytest.raises(CoinbenchError, match="not readable as JSON") as caught:
            read_json(path)
        one_line(caught.value)


class Pair(nn.Module):
    """A network with a shared one inside."""

    def __init__(self, seed: int, shared: nn.Module, width: int = 4) -> None:
        super().__init__()
        with seeded(Rng(seed)):
            self.own = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
        self.shared = shared


@pytest.fixture
def shared() -> nn.Module:
    return nn.Linear(2, 2)


def test_weights_round_trip_without_the_shared_network(tmp_path: Path, shared: nn.Module) -> None:
    a, b, path = Pair(0, shared), Pair(1, shared), tmp_path / "w.safetensors"
    assert set(weights.own_state(a, [shared])) == {key for key in a.state_dict() if key.startswith("own.")}
    assert set(weights.own_state(a)) == set(a.state_dict())
    digest = weights.save(a, path, [shared], method="pair")
    assert not tiny.same_state(a, b)
    weights.load(b, path, [shared])
    assert tiny.same_state(a, b)
    assert weights.digest(b, [shared]) == digest
    content = path.read_bytes()
    weights.save(a, path, [shared], method="pair")
    assert path.read_bytes() == content


def test_the_digest_sees_names_shapes_and_bits(shared: nn.Module) -> None:
    base = Pair(0, shared)
    digest = weights.digest(base, [shared])
    assert weights.digest(Pair(0, shared), [shared]) == digest
    assert weights.digest(base) != digest
    other = Pair(0, shared)
    with torch.no_grad():
        other.own.get_parameter("0.weight")[0, 0] += 1e-6
    assert weights.digest(other, [shared]) != digest
    assert weights.digest(nn.Linear(2, 3, bias=False)) != weights.digest(nn.Linear(3, 2, bias=False))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "not readable as safetensors"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "not readable as safetensors"),
        (lambda path: path.write_bytes(b""), "not readable as safetensors"),
        (lambda path: path.write_bytes(b"PK\x03\x04" * 100), "not readable as safetensors"),
        (lambda path: path.unlink(), "not readable as safetensors"),
        (lambda path: weights.save(nn.Linear(3, 4), path), "lacks tensor"),
        (
            lambda path: weights.save(
                nn.ModuleDict({"own": Pair(0, nn.Linear(2, 2)).own, "more": nn.Linear(1, 1)}), path
            ),
            "foreign",
        ),
        (lambda path: weights.save(Pair(0, nn.Linear(2, 2), 5).own, path), "lacks tensor"),
        (lambda path: weights.save(nn.ModuleDict({"own": Pair(0, nn.Linear(2, 2), 5).own}), path), "has shape"),
        (lambda path: weights.save(nn.ModuleDict({"own": Pair(0, nn.Linear(2, 2), 1).own}), path), "has shape"),
    ],
    ids=[
        "cut early",
        "cut late",
        "empty",
        "no safetensors",
        "missing",
        "lacks",
        "foreign",
        "names",
        "shape",
        "broadcast",
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, shared: nn.Module, spoil: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "w.safetensors"
    weights.save(Pair(0, shared), path, [shared])
    spoil(path)
    with pytest.raises(DataError, match=message) as caught:
        weights.load(Pair(1, shared), path, [shared])
    assert one_line(caught.value).startswith(str(path))
    assert caught.value.exit_code == 4
