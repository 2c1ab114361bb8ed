"""Downloads from servers that cut, refuse and lie."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from official_files import serve

from coinbench import fetch
from coinbench.errors import DataError, Interrupted
from coinbench.log import Log


def test_an_interrupted_download_keeps_what_came(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3 * 10**6)
    remote = fetch.Remote(name="big.bin", digests=(("md5", hashlib.md5(content).hexdigest()),))
    with serve({"big.bin": content}) as served:
        remote = replace(remote, url=f"{served.url}/big.bin")
        log = Log(tmp_path, lambda event: log.stop.set() if "step" in event else None)
        with pytest.raises(Interrupted):
            fetch.download(remote, tmp_path, log)
        came = (tmp_path / ".big.bin.part").stat().st_size
        assert 0 < came < len(content)
        path = fetch.download(remote, tmp_path, Log(tmp_path))
        assert served.asked[-1][1] == f"bytes={came}-"
    assert path.read_bytes() == content


@pytest.mark.parametrize("how", ["no length", "chunked"])
def test_a_cut_answer_without_a_length_is_noticed(how: str, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(10**5)
    with serve({"big.bin": content}) as served:
        served.how, served.script["big.bin"] = how, [-5000]
        remote = fetch.Remote(name="big.bin", url=f"{served.url}/big.bin", size=len(content))
        assert fetch.download(remote, tmp_path, Log(tmp_path)).read_bytes() == content


def test_a_server_that_always_cuts_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_TRIES", 2)
    with serve({"big.bin": bytes(10**5)}) as served:
        served.ranges, served.script["big.bin"] = False, [-1000, -2000] * 20
        remote = fetch.Remote(name="big.bin", url=f"{served.url}/big.bin")
        with pytest.raises(DataError, match="cannot be reached \\(cut after"):
            fetch.download(remote, tmp_path, Log(tmp_path))
        assert len(served.asked) < 8


def test_a_page_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with serve({"big.bin": b"<html>log in</html>"}) as served:
        served.kind = "text/html"
        remote = fetch.Remote(name="big.bin", url=f"{served.url}/big.bin")
        with pytest.raises(DataError, match=r"text/html.*no web page"):
            fetch.download(remote, tmp_path, Log(tmp_path))
    assert not (tmp_path / "big.bin").exists()
