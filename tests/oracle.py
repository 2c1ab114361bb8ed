"""What the tests with generated bad inputs share: how many, how a file goes bad, and how a command must answer."""

from __future__ import annotations

import contextlib
import copy
import json
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from commands import Ran, in_process
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

KINDS = {"configurations": 500, "labels files": 500, "images": 450, "checkpoints": 400, "result files": 150}
"""How many of each are tried by `make test`: 2,000. A report takes longest."""


def generated(kind: str) -> pytest.MarkDecorator:
    """Parametrise a test with its count: a tenth is a sample for `make check`."""
    count = KINDS[kind]
    return pytest.mark.parametrize("count", [count // 10, pytest.param(count, marks=pytest.mark.slow)])


def for_each(strategy: st.SearchStrategy[Any], count: int, check: Callable[[Any], None]) -> None:
    """Check `count` generated values, the same ones on every machine."""
    seen = 0

    def counted(value: Any) -> None:
        nonlocal seen
        seen += 1
        check(value)

    settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )(given(strategy)(counted))()
    assert seen >= count


def answered(capfd: pytest.CaptureFixture[str], words: Iterable[object], codes: set[int], *names: object) -> Ran:
    """Call the command line and check that it did its work, or failed in one line that says one of `names`."""
    with contextlib.suppress(AttributeError):
        # As a terminal does: what cannot be encoded is an error.
        sys.stdout.reconfigure(errors="strict")  # pyright: ignore[reportAttributeAccessIssue]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        ran = in_process(capfd, *words)
    shown = f"{ran.code} {ran.err[-2000:]!r}"
    assert [str(warning.message) for warning in caught] == [], shown
    assert ran.code in codes, shown
    assert "Traceback" not in ran.err, shown
    assert "internal error" not in ran.err, shown
    complaints = [line for line in ran.err.splitlines() if line.startswith("coinbench: ")]
    assert len(complaints) == (ran.code in (2, 4)) or ran.code == 1, shown
    for line in complaints:
        assert len(line) < 1500, shown
        assert line.isprintable(), shown
        assert not names or any(str(name) in line for name in names), shown
    return ran


# --- how bytes go bad

Edit = Callable[[bytes], bytes]


@st.composite
def edits(draw: st.DrawFn) -> Edit:
    """One to three blows to a file: cut, overwritten, stretched, zeroed, or replaced by something else."""
    blows = draw(st.lists(st.tuples(st.sampled_from(_BLOWS), st.floats(0, 1), _PAYLOAD), min_size=1, max_size=3))

    def edited(data: bytes) -> bytes:
        for blow, share, payload in blows:
            data = blow(data, int(share * len(data)), payload)
        return data

    return edited


_PAYLOAD = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"\0", b"\xff" * 8, b"\xff\xff\xff\x7f", b"NaN", b"1e999", b"-1", b'"', b"\n", b"{", b"null"]),
)
_FOREIGN = (b"", b"PK\x03\x04" * 20, b"\x80\x04\x95" + b"c" * 40, b"[" * 100_000, b"\xff\xfe\0\0", b"PAR1PAR1", b"x\n")
_BLOWS: tuple[Callable[[bytes, int, bytes], bytes], ...] = (
    lambda data, at, payload: data[:at],
    lambda data, at, payload: data[:at] + payload + data[at + len(payload) :],
    lambda data, at, payload: data[:at] + payload + data[at:],
    lambda data, at, payload: data[:at] + data[at + 1 + len(payload) :],
    lambda data, at, payload: data[:at] + b"\0" * 64 + data[at + 64 :],
    lambda data, at, payload: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if at < len(data) else data,
    lambda data, at, payload: data + data[at:],
    lambda data, at, payload: _FOREIGN[at % len(_FOREIGN)],
)


# --- how JSON goes bad

ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 3, 10**30, 1.5, float("nan"), float("inf"), "", "x", "0", "größe", "a\nb", "\x1b[31m", "$x$"),
    *("\ud800", "../../..", "a" * 5000, [], [1], {}, {"name": "viscoin"}, [[]], {"": {"": 0}}, "nan", "100"),
)
"""Values that are seldom what was expected."""


@st.composite
def tree_edits(draw: st.DrawFn) -> Callable[[Any], Any]:
    """One to three changes somewhere in a tree: a value replaced, dropped, nested, doubled or renamed."""
    changes = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["replace", "replace", "drop", "nest", "add", "rename", "empty"]),
                st.lists(st.integers(0, 30), min_size=1, max_size=7),
                st.sampled_from(ODD),
            ),
            min_size=1,
            max_size=3,
        )
    )

    def edited(tree: Any) -> Any:
        tree = json.loads(json.dumps(tree))
        for how, path, value in changes:
            tree = _change(tree, how, path, copy.deepcopy(value))
        return tree

    return edited


def _change(tree: Any, how: str, path: list[int], value: Any) -> Any:
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    if not keys:
        return value
    key = keys[path[0] % len(keys)]
    inner = tree[key]
    if len(path) > 1 and isinstance(inner, dict | list) and inner:
        tree[key] = _change(inner, how, path[1:], value)
    elif how == "drop":
        del tree[key]
    elif how == "empty":
        return type(tree)()
    elif how == "rename" and isinstance(tree, dict):
        tree[str(value)] = tree.pop(key)
    elif how == "add" and isinstance(tree, dict):
        tree[f"{key}2"] = inner
    else:
        tree[key] = {"a": inner} if how == "nest" else value
    return tree


def spoil_json(path: Path, edit: Callable[[Any], Any]) -> None:
    """Rewrite a JSON file with its tree changed."""
    path.write_text(json.dumps(edit(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
