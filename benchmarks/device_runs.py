"""What the scripts for a CUDA device share: a limit of time, variants that may fail, peaks, results on disk."""

from __future__ import annotations

import gc
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from coinbench import provenance
from coinbench.files import write_json

PEAK = {"fp32": 67e12, "tf32": 494e12, "bf16": 989e12, "fp16": 989e12}
"""Dense FLOP/s by type of H100 SXM and H200, which differ in memory alone (NVIDIA's data sheets)."""
OF = ("H100", "H200")
TUNE = "let cuDNN choose kernels by trying three; takes tens of seconds for each type, and no run of coinbench does it"


def tune(wanted: bool) -> None:
    """Let cuDNN try the kernels that it proposes first, or take its first proposal."""
    torch.backends.cudnn.benchmark = wanted
    torch.backends.cudnn.benchmark_limit = 3


def command(given: list[str]) -> str:
    """Return how a script was called, without where its results go.

    >>> command(["benchmarks/gpu_stylegan2.py", "--size", "64", "--out", "here.json", "--tune"])
    'python benchmarks/gpu_stylegan2.py --size 64 --tune'
    """
    script, *options = given
    kept = [word for before, word in zip(["", *options], options, strict=False) if "--out" not in (before, word)]
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *kept])


ONLY = "variants to measure, as 'bf16 graph,tf32 graph' (default: all); --out then holds these alone"


def chosen(only: str, known: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the variants that `only` names, in the order of `known`; all where it is empty.

    >>> chosen("bf16 graph, fp32 off", [("fp32", "off"), ("fp32", "graph"), ("bf16", "graph")])
    [('fp32', 'off'), ('bf16', 'graph')]
    """
    named = [" ".join(name.split()) for name in only.split(",") if name.strip()]
    labels = {" ".join(variant): variant for variant in known}
    if wrong := [name for name in named if name not in labels]:
        sys.exit(f"--only: unknown {wrong[0]!r}; known: {', '.join(labels)}")
    return [variant for label, variant in labels.items() if not named or label in named]


def peak(device: torch.device, kind: str) -> float | None:
    """Return the device's dense FLOP/s for a type; None where it is not known."""
    known = device.type == "cuda" and any(name in torch.cuda.get_device_name(device) for name in OF)
    return PEAK[kind] if known else None


def wait(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Runs:
    """Variants one after the other, as long as there is time; results are written after each."""

    device: torch.device
    seconds: float
    out: Path
    about: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Add what the numbers come from."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        of = {
            "command": command(sys.argv),
            "device": name,
            "git": provenance.git_state(provenance.here()),
            "versions": provenance.versions(),
        }
        self.about = {**self.about, **of, "cuda": torch.version.cuda}

    def left(self) -> float:
        """Return the seconds until no variant begins any more."""
        return self.seconds - (time.monotonic() - self.began)

    def say(self, text: str) -> None:
        """Print a line with the time."""
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", flush=True)

    def run(self, name: dict[str, Any], needs: float, variant: Callable[[], dict[str, Any]]) -> None:
        """Run a variant and keep its row; what fails or comes too late is a row that says so.

        Args:
            name: the columns that tell which it is.
            needs: seconds that it may take; it does not begin with less.
            variant: returns the columns that it found.
        """
        told = " ".join(str(value) for value in name.values())
        if self.left() < needs:
            row = name | {"skipped": f"{self.left():.0f} of --seconds {self.seconds:g} left, may need {needs:g}"}
            self.say(f"{told}: skipped, {row['skipped']}")
        else:
            self.say(f"{told} ...")
            began = time.monotonic()
            try:
                row = name | variant()
            # Whatever goes wrong in one variant, the others are worth having.
            except Exception as error:
                lines = str(error).strip().splitlines() or [""]
                row = name | {"failed": f"{type(error).__name__}: {lines[0]}"[:300]}
            row["took (s)"] = time.monotonic() - began
            self.say(f"{told}: {_columns(row, name)}")
        self.rows.append(row)
        self.write()
        self._clear()

    def write(self) -> None:
        """Write what is known by now."""
        write_json(self.out, self.about | {"seconds": time.monotonic() - self.began, "rows": self.rows})

    def _clear(self) -> None:
        """Give memory back, and forget how much there was."""
        torch.compiler.reset()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def memory(self) -> float | None:
        """Return the most memory, in GB, that the device had to have since the last variant; None on the CPU."""
        return torch.cuda.max_memory_reserved(self.device) / 1e9 if self.device.type == "cuda" else None


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table, whose columns are those of any row.

    >>> print(table([{"a": 1.0, "b": "x"}, {"a": 2.0, "c": None}]))
    | a | b | c |
    | --- | --- | --- |
    | 1 | x |  |
    | 2 |  |  |
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([_text(row.get(name)) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _columns(row: dict[str, Any], name: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_text(value)}" for key, value in row.items() if key not in name)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
