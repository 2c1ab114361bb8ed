"""The commands and the code that README.md shows work as they stand."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Cli, in_process
from tiny import make_problem

from coinbench.coin import CoIN
from coinbench.log import Log
from coinbench.rng import Rng
from coinbench.specs import MethodSpec

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = """
Some text with `coinbench nonsense` in it, and a block of another language:

```toml
coinbench = "no command"
```

```bash
git clone somewhere && cd coinbench   # a comment
$ coinbench run --methods flint \\
    --dataset birds
coinbench ls; make test
```

```python
x = 1
```
"""


def blocks(text: str, language: str) -> list[str]:
    """The contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str, program: str) -> list[list[str]]:
    """The arguments of each call of a program in the bash blocks."""
    found = []
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|\|", line):
                words = shlex.split(part.removeprefix("$ "), comments=True)
                if words and Path(words[0]).name == program:
                    found.append(words[1:])
    return found


def targets(makefile: str) -> set[str]:
    """The names that `make` can be asked for."""
    return set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))


def tried(words: list[str]) -> list[str]:
    """The same command, changed so that it trains nothing."""
    # Plug-in files are named from the checkout, which tests do not run in.
    words = [str(ROOT / word) if word.startswith("examples/") else word for word in words]
    if words and words[0] == "run":
        return [*words, "--dry-run"]
    if words and words[0] == "plan":
        return [*words, "--no-measure"]
    if words and words[0] in ("repro", "ablate"):
        return [*words, "--plan"]
    # A table of a run needs one.
    if words and words[0] == "table":
        return words[:2]
    return [*words, "--help"] if words and words[0] in ("score", "report", "compare", "gate") else words


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COINBENCH_CACHE", str(tmp_path / "cache"))
    return partial(in_process, capfd)


def test_the_reader_finds_what_is_there() -> None:
    assert commands(SMALL, "coinbench") == [["run", "--methods", "flint", "--dataset", "birds"], ["ls"]]
    assert commands(SMALL, "make") == [["test"]]
    assert blocks(SMALL, "python") == ["x = 1\n"]
    assert blocks("no block at all", "bash") == []
    assert targets("PYTHON ?= python3\ntest: x\n\techo y:\n.PHONY: z\n") == {"test"}
    assert tried(["run", "-m", "flint"])[-1] == "--dry-run"
    assert tried(["ablate", "-d", "birds"])[-1] == "--plan"
    assert tried(["table", "2a", "runs/birds"]) == ["table", "2a"]


def test_a_wrong_command_is_noticed(cli: Cli) -> None:
    text = "```bash\ncoinbench run --methods flint --dataset brids\n```\n"
    (words,) = commands(text, "coinbench")
    assert cli(*tried(words)).code == 2


def test_the_readme_shows_commands() -> None:
    first_words = [words[0] for words in commands(README, "coinbench")]
    assert first_words.count("run") >= 2
    assert commands(README, "make")
    assert blocks(README, "python")


@pytest.mark.parametrize("words", commands(README, "coinbench"), ids=" ".join)
def test_each_command_is_accepted(cli: Cli, words: list[str]) -> None:
    ran = cli(*tried(words))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out


@pytest.mark.parametrize("words", commands(README, "make"), ids=" ".join)
def test_each_make_target_exists(words: list[str]) -> None:
    assert words
    assert set(words) <= targets((ROOT / "Makefile").read_text(encoding="utf-8"))


def test_the_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    gone = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert gone == []


def test_the_method_of_the_readme_is_that_of_the_example_package() -> None:
    example = (ROOT / "examples" / "coinbench-pca" / "coinbench_pca.py").read_text(encoding="utf-8")
    assert blocks(README, "python") == [example]
    assert len(example.splitlines()) < 80


def test_the_method_of_the_readme_runs(tmp_path: Path) -> None:
    space: dict[str, Any] = {"__name__": "readme"}
    for block in blocks(README, "python"):
        exec(compile(block, "README.md", "exec", dont_inherit=True), space)
    specs = [value for value in space.values() if isinstance(value, MethodSpec)]
    assert specs, "no block defines a MethodSpec"
    problem = make_problem()
    batch = next(problem.test.batches(5))
    for spec in specs:
        config = spec.config(**({"K": 4} if "K" in spec.config.model_fields else {}))  # pyright: ignore
        coin = spec.fit(config, problem, Rng(0), Log(tmp_path)).eval()
        assert isinstance(coin, CoIN)
        with torch.no_grad():
            concepts = coin.encode(batch.images)
            assert concepts.pooled.shape == (5, coin.n_concepts)
            assert coin.predict(concepts).shape == (5, problem.n_classes)
            decoded = coin.decode(concepts)
        assert decoded.shape == batch.images.shape
        assert float(decoded.abs().max()) <= 1
        fresh = spec.build(config, problem, Rng(0))
        fresh.load_state_dict(coin.state_dict())
        assert torch.equal(fresh.eval().encode(batch.images).pooled, concepts.pooled)
