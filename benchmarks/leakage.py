"""Where the class of an image is carried: by the concepts that faithfulness removes, by the others, or past them by Φ′.

    python benchmarks/leakage.py runs/digits runs/digits-styled --json benchmarks/results/leakage.json

For every cell of the run folders, on the test split, ĉ = argmax g(x):

* `x~`: share of images with argmax g(x̃) = ĉ;
* `r>tau removed`: the same after the concepts with r_k(x) > τ are removed; what stays is class evidence that
  faithfulness at this τ does not reach;
* `r>0 removed`, `all removed`: the same without any concept that speaks for ĉ, and with Φ = 0. A method without Φ′
  decodes one and the same image then, and scores chance; more than chance is carried by Φ′: leakage;
* `phi'`: decoded from the concepts of x and the Φ′ of another image x′ of another class: share read as ĉ(x), and share
  read as ĉ(x′), which Φ′ alone carries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coinbench.artefact import Artefact
from coinbench.cache import Cache, default_root
from coinbench.coin import CoIN
from coinbench.concepts import Concepts
from coinbench.files import read_json, write_json
from coinbench.problem import Problem
from coinbench.trace import Trace

TAUS = (0.4, 0.2, 0.1)


def read_as(coin: CoIN, concepts: Concepts) -> Tensor:
    """Return argmax g of the decoded images."""
    return coin(coin.decode(concepts)).argmax(1)


@torch.no_grad()
def leakage(coin: CoIN, problem: Problem) -> dict[str, float]:
    """Return the shares that the module's docstring names."""
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for batch in problem.test.batches(100):
        trace = Trace(coin, problem, batch)
        concepts, c, r = trace.concepts, trace.predicted, trace.relevance
        kept = {"x~": torch.ones_like(r, dtype=torch.bool)}
        kept |= {f"r>{tau:g} removed": r <= tau for tau in TAUS}
        kept |= {"r>0 removed": r <= 0, "all removed": torch.zeros_like(r, dtype=torch.bool)}
        for name, mask in kept.items():
            parts[name].append(read_as(coin, concepts.scale(mask.to(r.dtype))) == c)
        if concepts.support is not None:
            order = np.random.default_rng(int(batch.index[0])).permutation(len(c))
            support = concepts.support[torch.from_numpy(order)]
            other = c[torch.from_numpy(order)]
            found = read_as(coin, Concepts(concepts.phi, concepts.pooled, support))[other != c]
            parts["phi' of x': read as c(x)"].append(found == c[other != c])
            parts["phi' of x': read as c(x')"].append(found == other[other != c])
    return {name: torch.cat(hits).double().mean().item() for name, hits in parts.items()}


def main() -> None:
    """Print a line for each method of each run, means over seeds; write the rows."""
    parser = argparse.ArgumentParser(description="Where the class of an image is carried.")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--cache", type=Path, default=default_root())
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for run in given.runs:
        for digest in read_json(run / "plan.json")["cells"]:
            artefact = Artefact(run / "cells" / digest)
            cell = artefact.cell
            coin, problem = artefact.load(Cache(given.cache))
            origin = {"run": run.name, "method": cell.method.name, "seed": cell.seed}
            rows.append({**origin, "uniform": 1 / problem.n_classes, **leakage(coin, problem)})
    for key in sorted({(row["run"], row["method"]) for row in rows}):
        same = [row for row in rows if (row["run"], row["method"]) == key]
        names = [name for name in same[0] if name not in ("run", "method", "seed")]
        print(" / ".join(key), f"({len(same)} seeds)")
        for name in names:
            values = [row[name] for row in same]
            print(f"  {name:<28} {np.mean(values):.3f}  ({min(values):.3f} to {max(values):.3f})")
    if given.json:
        command = "python benchmarks/leakage.py " + " ".join(run.name for run in given.runs)
        commit = subprocess.run(("git", "rev-parse", "--short", "HEAD"), capture_output=True, text=True).stdout.strip()
        write_json(given.json, {"command": command, "commit": commit, "rows": json.loads(json.dumps(rows))})


if __name__ == "__main__":
    main()
