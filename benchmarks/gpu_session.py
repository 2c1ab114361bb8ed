"""Train StyleGAN2 on several data sets side by side on one GPU, then the methods on each, within a time limit.

    python benchmarks/gpu_session.py --packs DIR --out DIR --seconds 450
    python benchmarks/gpu_session.py --packs DIR --out DIR --seconds 90 --smoke

What is done stands in gpu_session.toml. Each chain trains f and G with `coinbench pretrain`, ends G by SIGTERM when its
share of the time is over, keeps the average of G with the least Fréchet distance on f, and gives it to `coinbench run`.
A chain that fails leaves the others alone; the end of its log is printed. `--out` gets an archive of each chain, small
enough to be carried around, and session.json: commands, exit codes, seconds, kimg, seconds per kimg, FD-f over time.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from collect import origin
from safetensors import safe_open
from safetensors.torch import save_file

from coinbench.cache import CHECKPOINT
from coinbench.errors import DataError
from coinbench.files import write_json
from coinbench.generators.stylegan2 import BEST, NETWORKS
from coinbench.plan import read_cell
from coinbench.work import planned_from

PLAN = Path(__file__).with_suffix(".toml")
PATIENCE = 45.0
"""Seconds that a command has to end in order after SIGTERM."""
END = 0.93
"""Share of the time after which methods are stopped too: the rest is for reports and packing."""
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
"""Of every command. TF32 in matrix products too: convolutions have it by default."""
ROOM = 15 * 2**20
"""Bytes that an archive may take, before compression."""
HEAVY = {".safetensors", ".npy", ".lock"}
"""Of a cache and a run, what an archive leaves out: weights but those of G, and decoded images."""


def average_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return the average of G that a finished or stopped training left, under the names that `init` takes.

    The best one by Fréchet distance on f; without f that of the end, or of the last checkpoint.

    Raises:
        DataError: the training had not got so far.
    """
    for name, prefix in ((BEST, "G_ema."), (NETWORKS, "G_ema."), (CHECKPOINT, "average.")):
        if (folder / name).is_file():
            with safe_open(folder / name, framework="pt") as file:
                keys = [key for key in list(file.keys()) if key.startswith(prefix)]
                return {f"G_ema.{key.removeprefix(prefix)}": file.get_tensor(key) for key in keys}
    raise DataError(f"{folder}: holds no average of G; give its training more time")


def rows_of(path: Path) -> list[dict[str, float]]:
    """Return the rows of train.csv or judged.csv; none where there is no file yet."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


@dataclass(slots=True)
class Session:
    """What all chains share."""

    plan: dict[str, Any]
    packs: Path
    work: Path
    out: Path
    seconds: float
    smoke: bool
    device: str
    environment: dict[str, str]
    began: float = field(default_factory=time.monotonic)

    def left(self, share: float) -> float:
        """Return the seconds until a share of the time is over."""
        return self.began + share * self.seconds - time.monotonic()


class Chain(threading.Thread):
    """f, G, then the methods of one data set, each in a process of its own."""

    def __init__(self, session: Session, given: dict[str, Any]) -> None:
        super().__init__(name=given["name"])
        self.session, self.given = session, given
        self.folder = session.work / self.name
        self.cache, self.run_folder, self.log = self.folder / "cache", self.folder / "run", self.folder / "log.txt"
        self.average = self.folder / "G.safetensors"
        self.told: dict[str, Any] = {"commands": []}
        self.error = ""

    def run(self) -> None:
        """Do everything; what goes wrong is noted, not raised."""
        try:
            self.folder.mkdir(parents=True)
            self._do()
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
        self.told["error"] = self.error

    def _do(self) -> None:
        given, smoke = self.given, self.session.smoke
        base = ["--dataset", given["dataset"], "--cache", str(self.cache), "--device", self.session.device]
        for text in self.sets():
            base += ["--set", text]
        pretrain = ["pretrain", "generator", *base]
        for share in self.session.plan["smoke"]["generator"] if smoke else (given["generator"],):
            self._call(pretrain, share)
        self.told |= self._of_generator()
        save_file(average_of(self._stage("generator")), self.average)
        if "methods" in given:
            self._methods(base)

    def _methods(self, base: list[str]) -> None:
        names = self.given["methods"].split(",")
        if self._run(names, base, END) == 130 and (done := self._done()):
            # Methods that were finished in time still make tables and a report.
            self._run(done, base, 1.0, least=PATIENCE)

    def _run(self, names: list[str], base: list[str], share: float, least: float = 1.0) -> int:
        plan = self.session.plan
        here = plan["smoke"] if self.session.smoke else plan["methods"]
        sets = [f"problem.generator.init={self.average}", "problem.generator.finetune=false", *self.method_sets(names)]
        command = ["run", "--methods", ",".join(names), *base, *(part for text in sets for part in ("--set", text))]
        command += ["--limit", str(here["limit"]), "--jobs", str(plan["methods"]["jobs"])]
        return self._call([*command, "--out", str(self.run_folder)], share, least)

    def _done(self) -> list[str]:
        """Return the methods whose cells are complete."""
        cells = [planned_from(read_cell(path), path.parent) for path in self.run_folder.glob("cells/*/cell.json")]
        return [planned.cell.method.name for planned in cells if planned.done]

    def method_sets(self, names: list[str]) -> list[str]:
        """Return the settings of methods and evaluation; those of methods that are not named are no part."""
        plan = self.session.plan
        sets = plan["smoke"]["methods"] if self.session.smoke else plan["methods"]["sets"]
        mine = [text for text in sets if not text.startswith("methods.") or text.split(".")[1] in names]
        return [*mine, *self.given.get("method_sets", ())]

    def sets(self) -> list[str]:
        """Return the settings of data, f and G; unpacks the images."""
        plan, sets = self.session.plan, []
        if self.given.get("photographs"):
            sets += plan["photographs"]["sets"]
        sets += self.given["sets"]
        if "images" in self.given:
            sets.append(f"data.root={self._unpacked()}")
        if self.session.smoke:
            sets += plan["smoke"]["sets"]
        return [text.replace("{packs}", str(self.session.packs)) for text in sets]

    def _unpacked(self) -> Path:
        root = self.folder / Path(self.given["images"]).stem
        with zipfile.ZipFile(self.session.packs / self.given["images"]) as pack:
            pack.extractall(root)
        return root

    def _call(self, arguments: list[str], share: float, least: float = 1.0) -> int:
        """Run coinbench until a share of the time is over, `least` seconds at least; return its exit code, 0 or 130.

        Raises:
            DataError: it ended in another way; with the end of what it said.
        """
        began = time.monotonic()
        with self.log.open("ab") as log:
            log.write(f"\n$ coinbench {' '.join(arguments)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", "coinbench", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.session.environment,
            )
            try:
                code = process.wait(max(least, self.session.left(share)))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
                try:
                    code = process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    code = process.wait()
        seconds = round(time.monotonic() - began, 1)
        self.told["commands"].append({"command": f"coinbench {' '.join(arguments)}", "exit": code, "seconds": seconds})
        if code == -signal.SIGTERM:
            # So early that it did not listen yet: what there was lies as it was.
            code = 130
        print(f"{self.name}: {arguments[0]} ended with {code} after {seconds} s", flush=True)
        if code not in (0, 130):
            raise DataError(f"coinbench {arguments[0]} ended with {code}")
        return code

    def _stage(self, kind: str) -> Path:
        """Return the folder of the one stage of a kind, finished or begun.

        Raises:
            DataError: there is none.
        """
        found = sorted(path for path in (self.cache / kind).glob("*") if path.is_dir())
        if not found:
            raise DataError(f"{self.cache / kind}: nothing was trained there")
        return found[0]

    def _of_generator(self) -> dict[str, Any]:
        folder = self._stage("generator")
        trained, judged = rows_of(folder / "train.csv"), rows_of(folder / "judged.csv")
        # The rate of the last process: the first steps of each choose kernels.
        last = {k: trained[-1][k] for k in ("step", "seconds", "p", "sign", "seconds per kimg")} if trained else {}
        return {"finished": folder.suffix != ".partial", "last": last, "judged": judged}

    def pack(self) -> None:
        """Write the archive of what this chain made, whatever came of it."""
        if self.average.is_file():
            with safe_open(self.average, framework="pt") as file:
                half = {key: file.get_tensor(key).half() for key in list(file.keys())}
            save_file(half, self.folder / "G-fp16.safetensors")
        with tarfile.open(self.session.out / f"{self.name}.tar.gz", "w:gz", compresslevel=6) as archive:
            room = ROOM
            for path in sorted(filter(self._kept, self.folder.rglob("*")), key=self._rank):
                if (size := path.stat().st_size) <= room:
                    archive.add(path, path.relative_to(self.session.work))
                    room -= size

    def _rank(self, path: Path) -> tuple[int, int, str]:
        """Return what is packed first: texts and numbers, weights, pictures of the run, grids, newest first."""
        if path.name.startswith("samples-"):
            return 3, -int(path.stem.partition("-")[2]), path.name
        kind = {".csv": 0, ".json": 0, ".txt": 0, ".md": 0, ".safetensors": 1}.get(path.suffix, 2)
        return kind, path.stat().st_size, str(path)

    def _kept(self, path: Path) -> bool:
        if not path.is_file():
            return False
        inner = path.relative_to(self.folder)
        if inner.parts[0] in ("log.txt", "G-fp16.safetensors"):
            return True
        if inner.parts[0] == "run":
            return path.suffix not in HEAVY
        # What `ship.py` reads is whole, where it is small: the finished stages of a chain that has no methods.
        shipped = "methods" not in self.given and inner.name == "weights.safetensors"
        return inner.parts[0] == "cache" and (shipped or path.suffix in (".csv", ".png", ".json"))


def print_ends(chains: list[Chain], room: int) -> None:
    """Print the end of the log of each chain that failed, within so many characters."""
    failed = [chain for chain in chains if chain.error]
    for chain in failed:
        print(f"\n=== {chain.name}: {chain.error}")
        if chain.log.is_file():
            print(chain.log.read_text(encoding="utf-8", errors="replace")[-room // len(failed) :])


def table(chains: list[Chain]) -> str:
    """Return a line for each command, and what was reached."""
    lines = []
    for chain in chains:
        for call in chain.told["commands"]:
            words = " ".join(call["command"].split()[1:3])
            lines.append(f"{chain.name:10} {words:24} exit {call['exit']:4} {call['seconds']:7.1f} s")
        if last := chain.told.get("last"):
            fd = [f"{row['kimg']:g}:{row['fd_f']:.4g}" for row in chain.told["judged"][-6:]]
            told = ", ".join(f"{name} {value:g}" for name, value in last.items())
            lines.append(f"{chain.name:10} G: {told}; FD-f by kimg {' '.join(fd)}")
    return "\n".join(lines)


def main() -> int:
    """Run all chains; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, required=True, help="folder with images and weights of f")
    parser.add_argument("--out", type=Path, required=True, help="gets archives and session.json")
    parser.add_argument("--work", type=Path, default=Path("gpu-session"), help="caches and runs (default: gpu-session)")
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--only", default="", help="chains, as birds64,faces64")
    parser.add_argument("--seconds", type=float, default=450.0)
    parser.add_argument("--smoke", action="store_true", help="every path in a few steps")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--commit", default="", help="of the code, where the checkout has no history")
    given = parser.parse_args()
    packs, work, out = given.packs.absolute(), given.work.absolute(), given.out.absolute()
    shutil.rmtree(work, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    plan = tomllib.loads(given.plan.read_text(encoding="utf-8"))
    environment = {**os.environ, **ENVIRONMENT}
    session = Session(plan, packs, work, out, given.seconds, given.smoke, given.device, environment)
    wanted = given.only.split(",") if given.only else [chain["name"] for chain in plan["chain"]]
    chains = [Chain(session, chain) for chain in plan["chain"] if chain["name"] in wanted]
    for chain in chains:
        chain.start()
    for chain in chains:
        chain.join()
    for chain in chains:
        chain.pack()
    told: dict[str, Any] = {"origin": origin(" ".join(sys.argv), os.cpu_count() or 1), "seconds": given.seconds}
    if given.commit:
        told["origin"]["commit"] = given.commit
    if torch.cuda.is_available():
        told["origin"]["device"] = f"{torch.cuda.get_device_name()}, {told['origin']['device']}"
    write_json(out / "session.json", told | {"chains": {chain.name: chain.told for chain in chains}})
    print_ends(chains, 6500)
    print(table(chains))
    return int(any(chain.error for chain in chains))


if __name__ == "__main__":
    sys.exit(main())
