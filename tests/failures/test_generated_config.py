"""Generated settings, configuration files and flags: exit 0 or 2, one line, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import in_process
from hypothesis import strategies as st
from oracle import ODD, answered, edits, for_each, generated, tree_edits

RUN = ("run", "--methods", "flint", "--dataset", "birds", "--dry-run")
PATHS = (
    *("data", "data.size", "data.name", "data.seed", "data.noise", "data.train_size", "problem", "problem.classifier"),
    *("problem.generator.net", "problem.classifier.train.betas", "problem.classifier.train.milestones", "method"),
    *("method.K", "method.train", "method.train.steps", "method.train.lr", "method.train.clip", "methods"),
    *("methods.viscoin", "methods.viscoin.gamma", "methods.flint.train.ema", "evaluation", "evaluation.taus"),
    *("evaluation.limit", "evaluation.folds", "", ".", "a.b", "data.", "größe", "data.size.more", "data\udcff"),
)
VALUES = (
    *("", "1", "-1", "1e400", "9" * 5000, ".nan", "-.inf", "null", "~", "yes", "0x1F", "1:3", "[1, 2]", "[", "{", "}"),
    *("{a: 1}", "{name: viscoin}", "{viscoin: 3}", "[" * 3000, "{a: " * 1500, "&a [*a]", "&a {b: *a}", "*a", "!!int x"),
    *("!!python/object/apply:os.system [id]", "!!timestamp x", "!!bool x", "!!float x", "!!binary x", "!!set {a, b}"),
    *("2001-99-99", "2001-01-01", "{1: 2, [3]: 4}", "{<<: 1}", "=", "'", '"\\ud800"', '"\\0"', "# no", "a: b", "\t"),
    *("~nobody-here/x", "\x1b[31m", "größe", "\udcff", "x" * 5000, "[0.1, 0.1]", "1_000", "!!omap [a: 1]", "? a", "%"),
)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
ASSIGNMENT = st.one_of(
    st.tuples(st.sampled_from(PATHS), st.one_of(st.sampled_from(VALUES), TEXT)).map("=".join),
    TEXT,
)
FLAG = st.one_of(
    st.tuples(st.just("--set"), ASSIGNMENT),
    st.tuples(st.just("--variant"), st.one_of(ASSIGNMENT.map("v:{}".format), TEXT)),
    st.tuples(
        st.just("--seeds"),
        st.one_of(st.sampled_from(["", "0:", ":3", "3:0", "0,0", "²", "٣", "1e3", "0:99999", "9" * 5000, "-1"]), TEXT),
    ),
    st.tuples(
        st.sampled_from(["--methods", "--dataset", "--metrics"]),
        st.one_of(st.sampled_from(["", ",", "viscoin,viscoin", "birds", "imagefolder", "mse", "VisCoIN"]), TEXT),
    ),
    st.tuples(st.just("--limit"), st.sampled_from(["0", "x", "9" * 5000, "1e3", ""])),
)
KEYS = ("dataset", "methods", "seeds", "metrics", "variants", "set", "data", "problem", "method", "evaluation", "more")
TREES = st.dictionaries(
    st.sampled_from(KEYS),
    st.recursive(
        st.one_of(st.sampled_from([odd for odd in ODD if odd != "\ud800"]), st.dates(), TEXT, st.sampled_from(VALUES)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.one_of(st.sampled_from(["size", "K", "train", "steps", "net"]), TEXT), inner, max_size=3
            ),
        ),
        max_leaves=6,
    ),
    max_size=5,
)
START = b"methods: [viscoin, flint]\ndataset: birds\nseeds: 0:2\n"
YAML = st.one_of(
    TREES.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogateescape")),
    TREES.map(lambda tree: START + yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogateescape")),
    st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)).map(
        lambda pair: START + f"{pair[0]}: {pair[1]}\n".encode("utf-8", "surrogateescape")
    ),
    edits().map(lambda edit: edit(START)),
    st.binary(max_size=60),
)
CASE = st.one_of(
    st.tuples(st.just("flags"), st.lists(FLAG, min_size=1, max_size=3)),
    st.tuples(st.just("yaml"), YAML),
    st.tuples(st.just("tree"), tree_edits()),
    st.tuples(st.just("bytes"), edits()),
)


@generated("configurations")
def test_a_generated_configuration(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    good = in_process(capfd, *RUN, "--set", "data.n_train=50", "--set", "data.n_test=20").out
    path = tmp_path / "given"

    def check(case: tuple[str, Any]) -> None:
        kind, value = case
        if kind == "flags":
            answered(capfd, (*RUN, *(word for flag in value for word in flag)), {0, 2})
            return
        if kind == "tree":
            value = json.dumps(value(json.loads(good))).encode()
        elif kind == "bytes":
            value = value(good.encode())
        path.write_bytes(value)
        # As far as the digests of the cells: all that a run does before it begins.
        words = ("plan", "--no-measure", "--config", path, "--cache", tmp_path / "cache", "--out", "out")
        ran = answered(capfd, words, {0, 2, 4})
        assert ran.code != 4 or "data.root" in ran.err or "no folder" in ran.err

    for_each(CASE, count, check)
    assert {file.name for file in tmp_path.iterdir()} <= {"given"}
