"""Train StyleGAN2 on several data sets one after the other on one GPU, then the methods on each, within a time limit.

    python benchmarks/gpu_session.py --packs DIR --out DIR --seconds 570 --only cub256
    python benchmarks/gpu_session.py --packs DIR --out DIR --smoke --device cpu

What is done stands in gpu_session.toml, what --packs must hold in gpu_packs.py. Each chain trains f and G with
`coinbench pretrain`, ends G by SIGTERM when its share of the time is over, keeps the average of G with the least
Fréchet distance on f, and gives it to `coinbench run` with as many steps of each method as the time that is left has
(`coinbench plan`). One after the other: processes that share a GPU in slices of time starve each other.

The same command with the same --work goes on with what the time did not suffice for, and leaves finished chains alone.
A chain that fails leaves the others alone; the end of its log is printed. --out gets session.json (commands, exit
codes, seconds, kimg, steps, curves, tables) and of each chain a folder of pictures and an archive, small enough to be
carried.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gpu_packs
import gpu_told
import torch
from collect import origin
from safetensors.torch import save_file

from coinbench.errors import DataError
from coinbench.files import read_json, write_json
from coinbench.plan import read_cell
from coinbench.work import planned_from

PLAN = Path(__file__).with_suffix(".toml")
PATIENCE = 45.0
"""Seconds that a command has to end in order after SIGTERM."""
END = 0.93
"""Share of a chain's time after which methods are stopped too: the rest is for reports and packing."""
FIT = 0.8
"""Share of what an estimate leaves to training that is given to it: trained methods take longer to evaluate."""
LEAST = 60.0
"""Seconds below which a chain is not begun: its first session says how long G trains."""
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
"""Of every command. TF32 in matrix products too: convolutions have it by default."""


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

    def left(self) -> float:
        """Return the seconds until the session is over."""
        return self.began + self.seconds - time.monotonic()

    def unpacked(self, name: str) -> Path:
        """Return the folder, or the weights of f, that a pack was unpacked to, once for all chains.

        Raises:
            DataError: the pack is not there, or not as gpu_packs.py describes it.
        """
        smoke = self.plan["smoke"]
        place = self.work / "packs" / (f"few-{name}" if self.smoke else name)
        if place.exists():
            return place
        # Whole or not at all: a machine may be taken away at any moment.
        begun = place.with_name(f"{place.name}.{os.getpid()}")
        begun.parent.mkdir(parents=True, exist_ok=True)
        if name == "faces":
            gpu_packs.unpack_faces(self.packs / gpu_packs.FACES, begun, smoke["faces"] if self.smoke else None)
        elif name == "cub":
            gpu_packs.unpack_cub(self.packs / gpu_packs.CUB, begun, smoke["classes"] if self.smoke else None)
        else:
            gpu_packs.squeezenet(self.packs, begun)
        begun.rename(place)
        return place


class Chain:
    """f, G, then the methods of one data set, each in a process of its own."""

    def __init__(self, session: Session, given: dict[str, Any]) -> None:
        self.session, self.given, self.name = session, given, given["name"]
        self.folder = session.work / self.name
        self.cache, self.run_folder, self.log = self.folder / "cache", self.folder / "run", self.folder / "log.txt"
        self.average, self.record = self.folder / "G.safetensors", self.folder / "state.json"
        self.state: dict[str, Any] = {"finished": False, "commands": [], "steps": {}}
        self.error = ""
        self.end = 0.0

    def run(self, seconds: float) -> None:
        """Go on from where it stands, for so long; what goes wrong is noted, not raised."""
        began = time.monotonic()
        self.end = began + seconds
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._do(seconds)
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
        self.state["error"] = self.error
        write_json(self.record, self.state)

    def _do(self, seconds: float) -> None:
        sets = self.sets()
        if self.record.is_file():
            self.state = read_json(self.record)
            if self.state["sets"] != sets:
                raise DataError(f"{self.folder}: begun with other settings; name another --work, or delete it")
        if self.state["finished"] or seconds < LEAST:
            return
        self.state["sets"] = sets
        base = ["--dataset", self.given["dataset"], "--cache", str(self.cache), "--device", self.session.device]
        base += [part for text in sets for part in ("--set", text)]
        if not self.average.is_file() and not self._generator(["pretrain", "generator", *base], seconds):
            return
        if "methods" not in self.given:
            self.state["finished"] = True
            return
        names = self.given["methods"].split(",")
        self.state["steps"] = self.state["steps"] or self._steps(names, base)
        if not self.state["steps"]:
            return
        limit = time.monotonic() + END * (self.end - time.monotonic())
        if self._run(names, base, limit) == 0:
            self.state["finished"] = True
        elif done := self._done():
            # Methods that were finished in time still make tables and a report.
            self._run(done, base, max(self.end, time.monotonic() + PATIENCE))

    def _generator(self, command: list[str], seconds: float) -> bool:
        """Train f and G until G's time is over; return whether it is. In smoke: stopped once, and then to its end."""
        # Of the first session; a later one goes on with what is left of it.
        share = self.state.setdefault("generator seconds", self.given["generator"] * seconds)
        spent = sum(call["seconds"] for call in self.state["commands"])
        limit = time.monotonic() + share - spent
        if self.session.smoke:
            self._call(command, self.end, lambda: bool(gpu_told.rows_of(self._stage("generator") / "train.csv")))
            limit = self.end
        code = self._call(command, min(limit, self.end))
        if code == 130 and time.monotonic() < limit:
            return False
        save_file(gpu_told.average_of(self._stage("generator")), self.average)
        return True

    def _steps(self, names: list[str], base: list[str]) -> dict[str, int]:
        """Return the steps of each method that take an equal share of the time that is left; none where there is none.

        Raises:
            DataError: a method's step could not be measured.
        """
        least, most = map(int, self._here("steps"))
        many = dict.fromkeys(names, most)
        command = ["plan", *self._words(names, base, many), "--steps", str(self._here("trial"))]
        found = self.folder / "plan.json"
        if self._call([*command, "--json"], self.end, out=found):
            return {}
        cells = read_json(found)["estimate"]["cells"]
        rows = {row["of"].partition("/")[2].partition(" ")[0]: row for row in cells}
        if unknown := [f"{name} ({row['note']})" for name, row in rows.items() if None in (row["ms"], row["seconds"])]:
            raise DataError(f"{self.name}: no step of {', '.join(unknown)} could be measured")
        around = sum(row["seconds"] - row["fit"] for row in rows.values())
        each = FIT * (END * (self.end - time.monotonic()) - around) / len(rows)
        return {name: min(most, max(least, int(1000 * each / row["ms"]))) for name, row in rows.items()}

    def _run(self, names: list[str], base: list[str], limit: float) -> int:
        return self._call(["run", *self._words(names, base, self.state["steps"])], limit)

    def _words(self, names: list[str], base: list[str], steps: dict[str, int]) -> list[str]:
        plan = self.session.plan
        sets = [f"problem.generator.init={self.average}", "problem.generator.finetune=false"]
        sets += self.method_sets(names, steps)
        words = ["--methods", ",".join(names), "--metrics", plan["methods"]["metrics"], *base]
        words += [part for text in sets for part in ("--set", text)]
        return [*words, "--limit", str(self._here("limit")), "--out", str(self.run_folder)]

    def _here(self, name: str) -> Any:
        return self.session.plan["smoke" if self.session.smoke else "methods"][name]

    def _done(self) -> list[str]:
        """Return the methods whose cells are complete."""
        cells = [planned_from(read_cell(path), path.parent) for path in self.run_folder.glob("cells/*/cell.json")]
        return [planned.cell.method.name for planned in cells if planned.done]

    def method_sets(self, names: list[str], steps: dict[str, int]) -> list[str]:
        """Return the settings of methods and evaluation; those of methods that are not named are no part."""
        plan = self.session.plan
        sets = [*plan["cub"]["methods"]] if self.given.get("pack") == "cub" else []
        sets += plan["smoke"]["methods"] if self.session.smoke else []
        sets += [f"methods.{name}.train.steps={steps[name]}" for name in names]
        return [text for text in sets if not text.startswith("methods.") or text.split(".")[1] in names]

    def sets(self) -> list[str]:
        """Return the settings of data, f and G; unpacks the images."""
        plan, sets, pack = self.session.plan, [], self.given.get("pack")
        places: dict[str, Path] = {}
        if pack:
            places = {"{packs}": self.session.unpacked(pack), "{f}": self.session.unpacked("f.safetensors")}
            sets += plan["photographs"]["sets"] + plan.get(pack, {}).get("sets", [])
        sets += self.given["sets"]
        if self.session.smoke:
            sets += plan["smoke"]["sets"]
        for name, place in places.items():
            sets = [text.replace(name, str(place)) for text in sets]
        return sets

    def _call(
        self,
        arguments: list[str],
        limit: float,
        enough: Callable[[], bool] = lambda: False,
        out: Path | None = None,
    ) -> int:
        """Run coinbench until a moment, or until there is enough of it; return its exit code, 0 or 130.

        Args:
            arguments: of the command.
            limit: moment of time.monotonic().
            enough: whether what it was to do is done; it may fail as long as nothing is there to look at.
            out: what gets its stdout, else the log.

        Raises:
            DataError: it ended in another way.
        """
        began = time.monotonic()
        words = f"coinbench {' '.join(arguments)}"
        with self.log.open("ab") as log, (out or Path(os.devnull)).open("wb") as result:
            log.write(f"\n$ {words}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", "coinbench", *arguments],
                stdout=result if out else log,
                stderr=log,
                env=self.session.environment,
            )
            code = _ended(process, limit, enough)
        seconds = round(time.monotonic() - began, 1)
        self.state["commands"].append({"command": words, "exit": code, "seconds": seconds})
        write_json(self.record, self.state)
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

    def told(self) -> dict[str, Any]:
        """Return what is known of the chain, for session.json."""
        return self.state | gpu_told.results(self.folder, self.run_folder)


def _ended(process: subprocess.Popen[bytes], limit: float, enough: Callable[[], bool]) -> int:
    """Wait for a process, stop it when its time is over or there is enough of it, and return its exit code."""
    while time.monotonic() < limit:
        try:
            return process.wait(0.5)
        except subprocess.TimeoutExpired:
            try:
                if enough():
                    break
            except DataError:
                continue
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, required=True, help="folder with images and weights of f")
    parser.add_argument("--out", type=Path, required=True, help="gets session.json, pictures, archives")
    parser.add_argument("--work", type=Path, default=Path("gpu-session"), help="caches and runs (default: gpu-session)")
    parser.add_argument("--plan", type=Path, default=PLAN, help="what is done (default: gpu_session.toml)")
    parser.add_argument("--only", default="", help="chains, as faces64,cub256")
    parser.add_argument("--seconds", type=float, default=570.0, help="for all chains together (default: 570)")
    parser.add_argument("--smoke", action="store_true", help="every path in a few steps, however long that takes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--commit", default="", help="of the code, where the checkout has no history")
    given = parser.parse_args()
    given.plan = tomllib.loads(given.plan.read_text(encoding="utf-8"))
    given.only = [name for name in given.only.split(",") if name]
    known = [chain["name"] for chain in given.plan["chain"]]
    if wrong := [name for name in given.only if name not in known]:
        parser.error(f"--only {','.join(wrong)}: known are {', '.join(known)}")
    return given


def main() -> int:
    """Run the chains one after the other; 1 if one of them failed."""
    given = arguments()
    packs, work, out = given.packs.absolute(), given.work.absolute(), given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    seconds = 86400.0 if given.smoke else given.seconds
    environment = {**os.environ, **ENVIRONMENT}
    session = Session(given.plan, packs, work, out, seconds, given.smoke, given.device, environment)
    chosen = [chain for chain in given.plan["chain"] if not given.only or chain["name"] in given.only]
    chains = [Chain(session, chain) for chain in chosen]
    about = {"origin": origin(" ".join(sys.argv), os.cpu_count() or 1), "seconds": seconds, "smoke": given.smoke}
    if given.commit:
        about["origin"]["commit"] = given.commit
    if torch.cuda.is_available():
        about["origin"]["device"] = f"{torch.cuda.get_device_name()}, {about['origin']['device']}"
    found: dict[str, Any] = {}
    for number, chain in enumerate(chains):
        weights = [other["weight"] for other in chosen[number:]]
        chain.run(session.left() * weights[0] / sum(weights))
        gpu_told.pack(chain.folder, chain.run_folder, chain.average, out, "methods" not in chain.given)
        found[chain.name] = chain.told()
        # After each chain: what comes later may be cut.
        write_json(out / "session.json", about | {"took": round(time.monotonic() - session.began, 1), "chains": found})
    gpu_told.print_ends({chain.log: chain.error for chain in chains if chain.error}, 6500)
    print(gpu_told.table(found))
    return int(any(chain.error for chain in chains))


if __name__ == "__main__":
    sys.exit(main())
