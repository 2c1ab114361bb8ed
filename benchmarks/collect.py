"""Runs the benchmarks and keeps what a reader needs: medians, ratios, commit and device.

    python benchmarks/collect.py
    python benchmarks/collect.py raw.json

The second form trims what `--benchmark-json raw.json` wrote. Both write benchmarks/results/benchmarks.json, which
`scaling.py --page` puts into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from coinbench import provenance
from coinbench.files import write_json

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def origin(command: str, threads: int = 1) -> dict[str, Any]:
    """Return command, commit, device and versions of a measurement."""
    git = provenance.git_state(provenance.here()) or {"commit": "unknown", "dirty": False}
    return {
        "command": command,
        "commit": git["commit"][:7] + (", with changes" if git["dirty"] else ""),
        "device": device(threads),
        "versions": provenance.versions(),
    }


def device(threads: int) -> str:
    """Return the machine in words."""
    machine = provenance.machine(threads)
    plural = "" if threads == 1 else "s"
    return f"{threads} thread{plural} of {machine['cores']} CPU cores, {machine['system']}"


def trimmed(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Return group, name, median, interquartile range (seconds), ratio to the fastest of the group, and extra_info.

    >>> fast, slow = ({"name": n, "group": "g", "stats": {"median": t, "iqr": 0.1, "rounds": 3}, "extra_info": {}}
    ...               for n, t in (("a", 2.0), ("b", 3.0)))
    >>> [row["ratio"] for row in trimmed({"benchmarks": [fast, slow]})]
    [1.0, 1.5]
    """
    fastest: dict[str, float] = {}
    for row in raw["benchmarks"]:
        fastest[row["group"]] = min(row["stats"]["median"], fastest.get(row["group"], float("inf")))
    return [
        {
            "group": row["group"],
            "name": row["name"].partition("[")[2].rstrip("]") or row["name"],
            "median": float(f"{row['stats']['median']:.4g}"),
            "iqr": float(f"{row['stats']['iqr']:.4g}"),
            "ratio": round(row["stats"]["median"] / fastest[row["group"]], 3),
            "rounds": row["stats"]["rounds"],
            "extra_info": row["extra_info"],
        }
        for row in raw["benchmarks"]
    ]


def measured() -> dict[str, Any]:
    """Run all benchmarks and return what pytest-benchmark says; ends with its exit code if one fails."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        # Without the shape checks of the tests, which would be timed too.
        words = ["--benchmark-only", "--override-ini", "addopts=--import-mode=importlib", f"--benchmark-json={raw}"]
        done = subprocess.run([sys.executable, "-m", "pytest", str(HERE), *words], cwd=HERE.parent)
        if done.returncode:
            sys.exit(done.returncode)
        return json.loads(raw.read_text(encoding="utf-8"))


def main() -> None:
    """Trim the file that is named, or what a run of the benchmarks says."""
    parser = argparse.ArgumentParser(description="Run the benchmarks, or take what --benchmark-json wrote; trim it.")
    parser.add_argument("raw", type=Path, nargs="?", help="what --benchmark-json wrote; default: run the benchmarks")
    given = parser.parse_args()
    rows = trimmed(json.loads(given.raw.read_text(encoding="utf-8")) if given.raw else measured())
    write_json(RESULTS / "benchmarks.json", {**origin("python benchmarks/collect.py"), "benchmarks": rows})


if __name__ == "__main__":
    main()
