"""Whole files or none, the cache, weights, records, results."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from torch import nn

from coinbench import records, results, weights
from coinbench.cache import Cache, default_root
from coinbench.errors import CoinbenchError, DataError, Interrupted
from coinbench.files import read_json, write_atomically, write_json
from coinbench.log import Log
from coinbench.results import COLUMNS, Score
from coinbench.rng import Rng, seeded


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


# files


def test_a_write_replaces_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"b": 1, "a": "β"})
    write_json(path, {"b": 2, "a": "β"})
    assert list(read_json(path).items()) == [("b", 2), ("a", "β")]
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), write_atomically(path) as temporary:
        temporary.write_bytes(b"half")
        assert path.read_bytes() == b"old"
        assert temporary.suffix == ".bin"
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(CoinbenchError) as caught, write_atomically(path) as temporary:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
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
from coinbench.training import _State
from coinbench.config import TrainConfig
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
module = torch.nn.Linear(100, 100)
for write in (lambda p: weights.save(module, p), lambda p: _State(module, TrainConfig(steps=1), ()).save(p, 1)):
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


# cache


def test_a_stage_is_made_once(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path), []

    def make(log: Log) -> None:
        calls.append(log.stage)
        (log.folder / "w").write_text("done")

    assert not cache.has("fit", "d")
    for _ in range(2):
        folder = cache.stage("fit", "d", make, Log(tmp_path))
        assert folder == cache.path("fit", "d")
        assert (folder / "w").read_text() == "done"
    assert calls == ["fit"]
    assert cache.has("fit", "d")
    cache.stage("fit", "other", make, Log(tmp_path))
    assert len(calls) == 2


@pytest.mark.parametrize("error", [RuntimeError("cut"), Interrupted("cut"), KeyboardInterrupt()])
def test_a_begun_stage_is_kept_and_continued(tmp_path: Path, error: BaseException) -> None:
    cache = Cache(tmp_path)

    def cut(log: Log) -> None:
        (log.folder / "checkpoint").write_text("half")
        raise error

    with pytest.raises(type(error)):
        cache.stage("fit", "d", cut, Log(tmp_path))
    assert not cache.has("fit", "d")
    assert not cache.busy("fit", "d")

    def rest(log: Log) -> None:
        assert (log.folder / "checkpoint").read_text() == "half"
        (log.folder / "checkpoint").rename(log.folder / "w")

    folder = cache.stage("fit", "d", rest, Log(tmp_path))
    assert [file.name for file in folder.iterdir()] == ["w"]
    assert not (tmp_path / "fit" / "d.partial").exists()


def test_drop_removes_finished_and_begun_stages(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.stage("fit", "d", lambda log: None, Log(tmp_path))
    (tmp_path / "fit" / "e.partial").mkdir()
    for name in ("d", "e", "never"):
        cache.drop("fit", name)
        assert not cache.has("fit", name)
    assert not (tmp_path / "fit" / "e.partial").exists()


def test_a_second_thread_waits_for_the_first_and_makes_nothing(tmp_path: Path) -> None:
    cache, began, go, said = Cache(tmp_path), threading.Event(), threading.Event(), []

    def slow(log: Log) -> None:
        began.set()
        assert go.wait(20)
        (log.folder / "w").write_text("first")

    first = threading.Thread(target=cache.stage, args=("fit", "d", slow, Log(tmp_path)))
    first.start()
    try:
        assert began.wait(20)
        assert cache.busy("fit", "d")

        def tell(event: dict) -> None:
            said.append(event["text"])
            go.set()

        def never(log: Log) -> None:
            raise AssertionError("made twice")

        folder = cache.stage("fit", "d", never, Log(tmp_path, tell))
    finally:
        go.set()
        first.join()
    assert (folder / "w").read_text() == "first"
    assert said == ["waiting for another process that makes fit d"]
    assert not cache.busy("fit", "d")


def test_waiting_can_be_interrupted(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    stop = Log(tmp_path)

    def inside(log: Log) -> None:
        waiting = Log(tmp_path, lambda event: waiting.stop.set())
        with pytest.raises(Interrupted):
            cache.stage("fit", "d", lambda log: None, waiting)

    cache.stage("fit", "d", inside, stop)


_HOLD = """
import sys
from pathlib import Path
from coinbench.cache import Cache
from coinbench.log import Log
def make(log):
    (log.folder / "half").write_text("half")
    print("began", flush=True)
    sys.stdin.readline()
Cache(Path(sys.argv[1])).stage("fit", "d", make, Log(Path(sys.argv[1])))
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that is making the stage fit/d."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        yield process
        process.kill()


def test_a_second_process_waits_for_the_first(tmp_path: Path, holder: subprocess.Popen) -> None:
    cache = Cache(tmp_path)
    assert cache.busy("fit", "d")
    assert not cache.busy("fit", "e")

    def let_go(event: dict) -> None:
        holder.communicate("go\n")

    folder = cache.stage("fit", "d", lambda log: pytest.fail("made twice"), Log(tmp_path, let_go))
    assert (folder / "half").read_text() == "half"
    assert not cache.busy("fit", "d")


def test_a_killed_process_blocks_nobody_and_its_beginning_is_kept(tmp_path: Path, holder: subprocess.Popen) -> None:
    cache = Cache(tmp_path)
    holder.kill()
    holder.wait()
    assert not cache.busy("fit", "d")
    folder = cache.stage("fit", "d", lambda log: None, Log(tmp_path))
    assert (folder / "half").read_text() == "half"


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CoinbenchError, match="set --cache DIR") as caught:
        Cache(tmp_path / "file").stage("fit", "d", lambda log: None, Log(tmp_path))
    one_line(caught.value)


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINBENCH_CACHE", str(tmp_path / "here"))
    assert default_root() == tmp_path / "here"
    monkeypatch.delenv("COINBENCH_CACHE")
    assert default_root().name == "coinbench"


# weights


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
        other.own[0].weight[0, 0] += 1e-6
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


# records


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    written = {
        "index": np.arange(7),
        "value": np.array([0.1, np.nan, np.inf, -0.0, 1e-300, 3, 4]),
        "feature": dice.normal(size=(7, 3)).astype(np.float32),
        "arm": np.array(["method", "random", "ü", "", "a", "b", "c"]),
        "dead": dice.random(7) < 0.5,
    }
    path = tmp_path / "samples" / "x.parquet"
    records.write(written, path)
    found = records.read(path)
    assert list(found) == list(written)
    for name, column in written.items():
        np.testing.assert_array_equal(found[name], column)
        assert found[name].shape == column.shape
    assert found["feature"].dtype == np.float32
    assert found["index"].dtype == np.int64


def test_records_without_rows_and_views_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    records.write({"index": np.arange(0), "feature": np.zeros((0, 2))}, path)
    assert records.read(path)["feature"].shape == (0, 2)
    turned = np.arange(6.0).reshape(2, 3).T
    records.write({"feature": turned}, path)
    np.testing.assert_array_equal(records.read(path)["feature"], turned)


def test_broken_records_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    records.write({"index": np.arange(9)}, path)
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"nothing"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="not readable as records") as caught:
            records.read(path)
        one_line(caught.value)
    with pytest.raises(DataError, match="not readable as records"):
        records.read(tmp_path / "none.parquet")


# results


def table() -> pd.DataFrame:
    parts = []
    for method in ("viscoin", "flint"):
        for seed in (10, 2):
            scores = [
                Score(
                    metric=metric,
                    params=params,
                    arm=arm,
                    subject=subject,
                    value=0.1 * seed + 1 / 3,
                    low=np.nan,
                    high=0.5,
                    n=0 if subject != "all" else 5,
                    unit="fraction",
                    higher_is_better=better,
                    version=1,
                    protocol='quotes ", commas and r_{k,c} ≥ 0',
                )
                for metric, params, better in (
                    ("mse", "", False),
                    ("faithfulness", "tau=0.1", True),
                    ("dead", "", None),
                )
                for arm in ("method", "random")
                for subject in ("all", "concept:3")
            ]
            given = {"run": "r", "dataset": "birds", "method": method, "seed": seed, "variant": "default"}
            parts.append(results.frame(scores, **given, classifier_digest="f", cell=f"{method}{seed}"))
    return pd.concat(parts, ignore_index=True)


def test_results_round_trip_sorted_with_the_columns_of_the_design(tmp_path: Path) -> None:
    results.write(table(), tmp_path)
    found = results.read(tmp_path)
    assert tuple(found.columns) == COLUMNS
    assert list(dict.fromkeys(zip(found["method"], found["seed"], strict=True))) == [
        ("flint", 2),
        ("flint", 10),
        ("viscoin", 2),
        ("viscoin", 10),
    ]
    first = found[found["cell"] == "flint2"]
    assert list(dict.fromkeys(first["metric"])) == ["dead", "faithfulness", "mse"]
    assert list(first["arm"])[:3] == ["method", "method", "random"]
    assert set(found.loc[found["metric"] == "dead", "higher_is_better"]) == {None}
    assert found["low"].isna().all()
    assert found["value"].max() == 0.1 * 10 + 1 / 3
    csv = pd.read_csv(tmp_path / "results.csv", keep_default_na=False, na_values={"low": [""]})
    assert tuple(csv.columns) == COLUMNS
    np.testing.assert_array_equal(csv["value"], found["value"])
    assert list(csv["protocol"]) == list(found["protocol"])


def test_results_do_not_depend_on_the_order_in_which_cells_end(tmp_path: Path) -> None:
    rows = table()
    results.write(rows, tmp_path / "a")
    for seed in range(3):
        results.write(rows.sample(frac=1, random_state=seed), tmp_path / "b")
        for name in ("results.csv", "results.parquet"):
            assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_a_score_needs_every_column_and_a_count(tmp_path: Path) -> None:
    score = Score(**{**dict.fromkeys(Score.__dataclass_fields__, ""), "value": 1.0, "n": 3})
    with pytest.raises(AssertionError, match="provenance"):
        results.frame([score], run="r")
    with pytest.raises(ValueError, match="must not be negative"):
        Score(**{**dict.fromkeys(Score.__dataclass_fields__, ""), "value": 1.0, "n": -1})


def test_results_that_are_missing_or_broken_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no results\.parquet there"):
        results.read(tmp_path)
    path = tmp_path / "results.parquet"
    results.write(table(), tmp_path)
    content = path.read_bytes()
    for broken in (content[:200], b"", json.dumps({}).encode()):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="not readable") as caught:
            results.read(tmp_path)
        one_line(caught.value)
    table().drop(columns="arm").to_parquet(path)
    with pytest.raises(DataError, match="column 'arm' is missing"):
        results.read(tmp_path)
