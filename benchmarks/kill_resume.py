"""Kills a run with SIGKILL at random moments, re-issues it, and compares its results with an uninterrupted run.

    python benchmarks/kill_resume.py --kills 20 --seed 0

No column of results.csv holds a time, so the files are compared byte for byte. Half of the kills take the workers
along (power cut), half leave them behind as orphans, which must stop by themselves; after some of the latter the next
command is given at once, so that it meets them. Linux only: processes are found in /proc.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 90.0
"""Seconds in which orphans must have stopped."""


def command(folder: Path, steps: int) -> list[str]:
    """Return the run: tiny, two methods, a checkpoint after every step."""
    settings = {
        "data.n_train": 240,
        "data.n_test": 40,
        "problem.classifier.width": 8,
        "problem.classifier.train.steps": steps,
        "problem.classifier.train.batch": 16,
        "problem.classifier.train.checkpoint_seconds": 0,
        "problem.generator.net": "beta_vae",
        "problem.perceptual.net": "random",
        "problem.generator.width": 8,
        "problem.generator.latent": 8,
        "problem.generator.train.steps": steps,
        "problem.generator.train.batch": 16,
        "problem.generator.train.checkpoint_seconds": 0,
        "method.K": 6,
        "method.channels": 8,
        "method.train.steps": steps,
        "method.train.checkpoint_seconds": 0,
        "evaluation.consistency_images": 10,
        "evaluation.bootstrap": 100,
        "evaluation.permutations": 2,
        "evaluation.random_draws": 2,
    }
    words = [
        sys.executable,
        "-m",
        "coinbench",
        "run",
        "--methods",
        "viscoin,flint",
        "--dataset",
        "birds",
        "--jobs",
        "2",
    ]
    words += ["--cache", str(folder / "cache"), "--out", str(folder / "out")]
    return words + [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def start(folder: Path, steps: int) -> subprocess.Popen[bytes]:
    """Begin the run; what it says is added to log.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command(folder, steps), stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def workers(folder: Path) -> list[int]:
    """Return the ids of worker processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"worker" in line and str(folder / "cache").encode() in line:
                found.append(int(entry.name))
    return found


def wait_for_workers(folder: Path) -> float:
    """Wait until no worker is left; return the seconds that took, infinite where one stays."""
    began = time.monotonic()
    while workers(folder):
        if time.monotonic() - began > PATIENCE:
            return float("inf")
        time.sleep(0.05)
    return time.monotonic() - began


def stage(folder: Path) -> str:
    """Return how far a run is, from what lies on disk."""
    cache, out = folder / "cache", folder / "out"
    if not out.is_dir():
        return "starting"
    done = len(list(out.glob("cells/*/results.parquet")))
    if done:
        return f"{done} of 2 cells done" + (", reporting" if (out / "results.parquet").is_file() else "")
    for kind in ("evaluate", "fit", "generator", "classifier"):
        folders = [path for path in cache.glob(f"{kind}/*") if path.is_dir()]
        ended = sum(path.suffix != ".partial" for path in folders)
        if folders:
            return f"{kind}: {ended} ended, {len(folders) - ended} begun"
    return "data"


@dataclass
class Report:
    """What the kills did."""

    kills: int = 0
    complete: int = 0
    """Runs that came to their end, the reference aside."""
    different: list[Path] = field(default_factory=list)
    """Folders whose results are not those of the reference."""
    failed: list[Path] = field(default_factory=list)
    """Folders in which a command failed that nobody had killed."""
    orphan_seconds: list[float] = field(default_factory=list)
    """How long orphans lived after their parent."""

    @property
    def good(self) -> bool:
        """Tell whether all is as it should be."""
        return (
            self.complete > 0
            and not self.different
            and not self.failed
            and max(self.orphan_seconds, default=0) < PATIENCE
        )


def kill_and_resume(root: Path, kills: int, seed: int, steps: int, say: Callable[[str], None]) -> Report:
    """Make the reference, then kill `kills` times; every run that is begun is brought to its end and compared."""
    dice = random.Random(seed)
    began = time.monotonic()
    if start(root / "reference", steps).wait() != 0:
        raise SystemExit(f"the uninterrupted run failed; see {root / 'reference' / 'log.txt'}")
    usual = time.monotonic() - began
    wanted = (root / "reference" / "out" / "results.csv").read_bytes()
    say(f"uninterrupted: {usual:.1f} s, {len(wanted.splitlines()) - 1} rows")
    say(f"{'kill':>4}  {'run':>3}  {'after s':>7}  {'killed':<18}  {'reached':<28}  orphans stopped after s")

    report, number, running = Report(), 0, False
    while running or report.kills < kills:
        number += not running
        running = True
        folder = root / f"run-{number:02d}"
        process = start(folder, steps)
        if report.kills < kills:
            # Starting takes a good part of a small run, so most moments are counted from a worker's first word; and
            # of the usual time only a part is drawn from, so that runs are cut more than once before they end.
            moment = dice.uniform(0.2, 0.5 * usual)
            try:
                began = time.monotonic()
                if dice.random() < 0.75:
                    _wait_for_a_word(process, folder)
                moment += time.monotonic() - began
                process.wait(max(0.0, began + moment - time.monotonic()))
            except subprocess.TimeoutExpired:
                report.kills += 1
                _kill(process, folder, dice, moment, report, number, say)
                continue
        running = False
        if code := process.wait():
            report.failed.append(folder)
            say(f"      {number:>3}  ended with code {code}: {folder / 'log.txt'}")
            continue
        report.complete += 1
        same = (folder / "out" / "results.csv").read_bytes() == wanted
        if not same:
            report.different.append(folder)
        say(f"      {number:>3}  complete, results {'identical' if same else 'DIFFERENT'}")
        wait_for_workers(folder)
    return report


def _wait_for_a_word(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until the run that was just begun has added to its log, or has ended."""
    log = folder / "log.txt"
    before = log.stat().st_size
    while process.poll() is None and log.stat().st_size == before:
        time.sleep(0.02)


def _kill(
    process: subprocess.Popen[bytes],
    folder: Path,
    dice: random.Random,
    moment: float,
    report: Report,
    number: int,
    say: Callable[[str], None],
) -> None:
    everyone, at_once = dice.random() < 0.5, dice.random() < 0.5
    reached = stage(folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for worker in workers(folder) if everyone else ():
        os.kill(worker, signal.SIGKILL)
    if at_once and not everyone:
        told = f"not waited for ({len(workers(folder))} alive)"
    else:
        seconds = wait_for_workers(folder)
        report.orphan_seconds.append(seconds)
        told = f"{seconds:.1f}"
    who = "parent and workers" if everyone else "parent"
    say(f"{report.kills:>4}  {number:>3}  {moment:>7.1f}  {who:<18}  {reached:<28}  {told}")


def main() -> None:
    """Run the experiment in a folder that is removed if all went well."""
    parser = argparse.ArgumentParser(description="Kill a run at random moments; compare its results.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="fixes the moments")
    parser.add_argument("--steps", type=int, default=15, help="of f, G and each method")
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="coinbench-kill-"))
    report = kill_and_resume(root, given.kills, given.seed, given.steps, lambda line: print(line, flush=True))
    longest = max(report.orphan_seconds, default=0.0)
    left = [pid for number in root.iterdir() for pid in workers(number)]
    print(f"orphan workers: {len(left)} left, the longest lived {longest:.1f} s")
    same = "no" if report.different or report.failed else "yes"
    print(f"{report.kills} kills, {report.complete} complete runs, results identical: {same}")
    if not report.good or left:
        print(f"kept for a look: {root}")
        sys.exit(1)
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
