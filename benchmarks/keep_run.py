"""Keeps the numbers of a run folder in benchmarks/results: command, commit, device, seconds, rows of all images.

python benchmarks/keep_run.py runs/birds birds --command "coinbench run --dataset birds ..."
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from coinbench.files import write_atomically
from coinbench.reports.folder import RunFolder, load, read_folder

RESULTS = Path(__file__).resolve().parent / "results"
COLUMNS = ["method", "variant", "seed", "metric", "version", "params", "arm", "value", "low", "high", "n"]


def kept(run: RunFolder, command: str, device: str) -> dict[str, Any]:
    """Return what is kept of a run; its commits are those that its cells were measured at.

    Args:
        run: with the cells.
        command: that made it; no folder of a machine.
        device: in words, and what else ran there.
    """
    provenances = {cell.path.name: load(cell.path / "provenance.json") for cell in run.cells}
    commits = {p["git"]["commit"][:7] + (", with changes" if p["git"]["dirty"] else "") for p in provenances.values()}
    seconds: dict[str, list[dict[str, Any]]] = {}
    for cell in run.cells:
        steps = load(cell.path / "cell.json")["method"]["train"]["steps"]
        seconds.setdefault(cell.method, []).append(
            {"seed": cell.seed, "variant": cell.variant, "steps": steps, **provenances[cell.path.name]["seconds"]}
        )
    return {
        "command": command,
        "commit": ", ".join(sorted(commits)),
        "device": device,
        "seconds": seconds,
        "columns": COLUMNS,
    }


def rows(table: pd.DataFrame) -> list[list[Any]]:
    """Return the rows of all images, four digits each, in a fixed order; those of classes and concepts are left out."""
    whole = table.query("subject == 'all'").sort_values(["method", "variant", "seed", "metric", "params", "arm"])
    found = [[_short(value) for value in row] for row in whole[COLUMNS].itertuples(index=False, name=None)]
    return [row for row in found if row[COLUMNS.index("value")] is not None]


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return None if value != value else float(f"{value:.4g}")


def main() -> None:
    """Write benchmarks/results/NAME.json, a row a line."""
    parser = argparse.ArgumentParser(description="Keep the numbers of a run folder in benchmarks/results.")
    parser.add_argument("run", type=Path, help="output folder of a run")
    parser.add_argument("name", help="of the file in benchmarks/results")
    parser.add_argument("--command", required=True, help="what made it, without folders of a machine")
    parser.add_argument("--device", default="2 CPU cores, no GPU", help="in words, and what else ran beside it")
    given = parser.parse_args()
    head = json.dumps(kept(read_folder(given.run), given.command, given.device), indent=1, ensure_ascii=False)
    table = pd.read_csv(given.run / "results.csv", keep_default_na=False, na_values=["nan", ""]).fillna({"params": ""})
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows(table))
    with write_atomically(RESULTS / f"{given.name}.json") as temporary:
        temporary.write_text(f'{head[:-2]},\n "rows": [\n{lines}\n]}}\n', encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
