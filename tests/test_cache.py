"""The shared cache: each stage once, whole or not there."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from coinbench.cache import Busy, Cache, default_root
from coinbench.errors import CoinbenchError, Interrupted
from coinbench.log import Log


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


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
        with pytest.raises(Busy):
            cache.stage("fit", "d", lambda log: pytest.fail("made twice"), Log(tmp_path), wait=False)

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
    with pytest.raises(Busy):
        cache.stage("fit", "d", lambda log: pytest.fail("made twice"), Log(tmp_path), wait=False)
    cache.stage("fit", "e", lambda log: None, Log(tmp_path), wait=False)

    def let_go(event: dict) -> None:
        holder.communicate("go\n")

    folder = cache.stage("fit", "d", lambda log: pytest.fail("made twice"), Log(tmp_path, let_go))
    assert (folder / "half").read_text() == "half"


def test_a_killed_process_blocks_nobody_and_its_beginning_is_kept(tmp_path: Path, holder: subprocess.Popen) -> None:
    cache = Cache(tmp_path)
    holder.kill()
    holder.wait()
    folder = cache.stage("fit", "d", lambda log: None, Log(tmp_path), wait=False)
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


def test_a_finished_stage_keeps_no_checkpoint(tmp_path: Path) -> None:
    def make(log: Log) -> None:
        (log.folder / "checkpoint.safetensors").write_bytes(b"x")
        (log.folder / "weights").write_bytes(b"w")

    folder = Cache(tmp_path).stage("fit", "d", make, Log(tmp_path))
    assert [path.name for path in folder.iterdir()] == ["weights"]
