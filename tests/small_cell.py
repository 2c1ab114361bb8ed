"""The smallest real cell and its run, made, broken and mended in this process: half a second each."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import Ran, in_process

from coinbench.cache import Cache
from coinbench.digests import classifier_digest, evaluate_digest, fit_digest, generator_digest
from coinbench.files import write_json
from coinbench.plan import Planned, Request, RunConfig, cells, resolve

SETS = (
    *("data.n_train=60", "data.n_test=20", "data.size=16", "method.K=4", "method.channels=8"),
    *("problem.classifier.width=8", "problem.classifier.train.steps=2", "problem.classifier.train.batch=8"),
    *("problem.generator.net=beta_vae", "problem.perceptual.net=random"),
    *("problem.generator.width=8", "problem.generator.latent=4", "evaluation.bootstrap=100"),
    *("problem.generator.train.steps=2", "problem.generator.train.batch=8"),
    *("method.train.steps=4", "method.train.batch=8", "method.train.checkpoint_seconds=0", "method.train.log_every=1"),
)
METRICS = "mse,sparsity"


@dataclass(frozen=True)
class Place:
    """A folder with a cache and the output of a run of one cell (flint on birds)."""

    folder: Path
    sets: tuple[str, ...] = SETS

    @property
    def cache(self) -> Cache:
        return Cache(self.folder / "cache")

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def config(self) -> RunConfig:
        return resolve(Request(methods="flint", datasets="birds", metrics=METRICS, sets=self.sets))

    @property
    def planned(self) -> Planned:
        return cells(self.config, self.cache, self.out)[0]

    def stage(self, kind: str) -> Path:
        """The folder of a finished stage; of "cell", the cell's own, of "data", that of all pixels."""
        cell = self.planned.cell
        if kind == "cell":
            return self.planned.folder
        if kind == "data":
            return self.cache.root / "data"
        digests = {"classifier": classifier_digest, "generator": generator_digest, "fit": fit_digest}
        return self.cache.path(kind, (digests | {"evaluate": evaluate_digest})[kind](cell))

    def describe(self, folder: Path) -> Path:
        """Write down the cell, as the executor does for its worker."""
        write_json(folder / "cell.json", self.planned.cell.model_dump(mode="json"))
        return folder / "cell.json"

    def worker(self, capfd: pytest.CaptureFixture[str], cell: Path) -> Ran:
        """Do what the worker of the cell does."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return in_process(capfd, "worker", cell, "--folder", self.planned.folder, "--cache", self.cache.root)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def command(self) -> tuple[object, ...]:
        words = [word for change in self.sets for word in ("--set", change)]
        names = ("-m", "flint", "-d", "birds", "--metrics", METRICS)
        return ("run", *names, *words, "--cache", self.cache.root, "--out", self.out)

    def run(self, capfd: pytest.CaptureFixture[str], *words: object) -> Ran:
        """Give the command of the run; cells that are not done start a worker in another process."""
        return in_process(capfd, *self.command, *words)

    def copy(self, to: Path) -> Place:
        shutil.copytree(self.folder, to, dirs_exist_ok=True)
        return Place(to, self.sets)

    def numbers(self) -> tuple[bytes, bytes]:
        """What a mended cell must give again."""
        folder = self.stage("cell")
        return (folder / "results.csv").read_bytes(), (folder / "weights.safetensors").read_bytes()


def last_line(ran: Ran, code: int, *pieces: object) -> str:
    """Check that a command ended with one line that says why; lines of progress may precede it."""
    lines = ran.err.splitlines()
    said = [line for line in lines if line.startswith("coinbench: ")]
    assert said == lines[-1:], ran.err
    assert "internal error" not in ran.err
    assert "Traceback" not in ran.err
    assert len(said[0]) < 600, f"too long to read: {said}"
    for piece in pieces:
        assert str(piece) in said[0], f"{str(piece)!r} is not in {said[0]!r}"
    assert ran.code == code, ran
    return said[0]
