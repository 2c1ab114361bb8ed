"""Plug-in files for tests: those that the documentation shows, and the same with one line of misbehaviour."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "coinbench-pca"
DOCS = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")


def shown(word: str) -> str:
    """The block of docs/plugins.md that holds a word."""
    (block,) = [block for block in re.findall(r"^```python\n(.*?)^```$", DOCS, re.M | re.S) if word in block]
    return block


METHOD = (EXAMPLE / "coinbench_pca.py").read_text(encoding="utf-8")
METRIC = shown("class Brightness")
DATASET = shown("class Stripes(")


def write(folder: Path, text: str, was: str, name: str, lines: dict[str, str]) -> Path:
    """Write a plug-in under a name; each of `lines` becomes the first line of the function of that name."""
    text = text.replace(f'"{was}"', f'"{name}"')
    for function, line in lines.items():
        text, found = re.subn(rf"^( *)(def {function}\(.*\):)\n", rf"\1\2\n\1    {line}\n", text, flags=re.M)
        assert found == 1, f"{found} functions are called {function}"
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return path


def method(folder: Path, name: str = "pca", **lines: str) -> Path:
    """Write the method of the example package."""
    return write(folder, METHOD, "pca", name, lines)


def metric(folder: Path, name: str = "brightness", **lines: str) -> Path:
    """Write the metric that the documentation shows."""
    return write(folder, METRIC, "brightness", name, lines)


def dataset(folder: Path, name: str = "stripes", **lines: str) -> Path:
    """Write the data set that the documentation shows."""
    return write(folder, DATASET, "stripes", name, lines)
