"""Make the weights that come with coinbench from a cache in which f, p and G of a data set were trained.

    coinbench pretrain classifier --dataset birds --cache DIR
    coinbench pretrain perceptual --dataset birds --cache DIR
    coinbench pretrain generator --dataset birds --cache DIR
    python benchmarks/ship.py birds --cache DIR

Writes coinbench/assets/NAME-SIZE: weights, samples, card.json (what they were trained with) and a model card with
figures measured here.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from coinbench import provenance, shipped
from coinbench.cache import Cache
from coinbench.config import Cell
from coinbench.errors import DataError
from coinbench.files import write_atomically, write_json
from coinbench.generators.stylegan2 import save_grid
from coinbench.judge import judge_by
from coinbench.log import Log
from coinbench.metrics.frechet import frechet, statistics
from coinbench.parts import part_accuracy
from coinbench.plan import Request, cells, resolve
from coinbench.pretrain import WEIGHTS, build_networks, load_split, open_source
from coinbench.rng import Rng

MOST = 8 * 2**20
"""Bytes of all weights."""
KINDS = ("classifier", "perceptual", "generator")


def trained_here(dataset: str, sets: tuple[str, ...], cache: Cache) -> Cell:
    """Return a cell of a data set whose f, p and G are those of `coinbench pretrain`."""
    request = Request(methods="viscoin", datasets=dataset, sets=(*sets, "problem.pretrained=false"))
    return cells(resolve(request), cache, Path("."))[0].cell


def ship(cell: Cell, cache: Cache, out: Path, command: str) -> dict[str, Any]:
    """Write the folder of shipped weights; return what the card says.

    Raises:
        DataError: a network was not trained yet, or all of them are too large.
    """
    # Before anything is written here: the weights are of the code as it was.
    git = provenance.git_state(provenance.here())
    source = open_source(cell.data, cache)
    train, test = (load_split(name, cell.data, source, cache, torch.device("cpu")) for name in ("train", "test"))
    found = build_networks(cell, source, train, cache)
    for kind, stage in found.stages.items():
        if not cache.has(stage.kind, stage.digest):
            raise DataError(f"{cache.root}: holds no {kind}; run `coinbench pretrain {kind} --dataset {cell.dataset}`")
        stage.load(cache, Log(cache.root))
    out.mkdir(parents=True, exist_ok=True)
    networks: dict[str, Any] = {}
    for kind in KINDS:
        stage = found.stages.get(kind)
        if stage is None:
            continue
        folder, file = cache.path(stage.kind, stage.digest), out / f"{kind}.safetensors"
        shutil.copyfile(folder / WEIGHTS, file)
        settings = getattr(cell.problem, kind)
        networks[kind] = {
            "file": file.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "settings": settings.key(),
            "parameters": sum(p.numel() for p in stage.network.parameters()),
            "images shown": settings.train.steps * settings.train.batch,
            "seconds": _seconds(folder / "train.csv"),
        }
    size = sum((out / entry["file"]).stat().st_size for entry in networks.values())
    if size > MOST:
        raise DataError(f"{out}: {size / 2**20:.1f} MiB of weights, more than {MOST / 2**20:.0f}")
    save_grid(found.generator.eval(), out / "samples.png", Rng(0).child("samples"))
    f = found.classifier.eval()
    card = {
        "data_fingerprint": cell.data_fingerprint,
        "data": cell.data.key(),
        "networks": networks,
        "figures": {**_of_f(f, train, test), **judge_by(f, train)(found.generator)},
        "command": command,
        "git": git,
        "versions": provenance.versions(),
    }
    if "perceptual" in networks:
        parts = torch.from_numpy(np.asarray(source.factors))
        card["figures"] |= part_accuracy(found.perceptual, parts, train, test)
    write_json(out / shipped.CARD, card)
    with write_atomically(out / "README.md") as temporary:
        temporary.write_text(_page(cell, card, source.card.licence), encoding="utf-8")
    return card


def _seconds(path: Path) -> float:
    with path.open(newline="", encoding="utf-8") as file:
        return float(list(csv.DictReader(file))[-1]["seconds"])


@torch.no_grad()
def _of_f(f: nn.Module, train: Any, test: Any) -> dict[str, float]:
    embedded, right = {}, 0
    for split in (train, test):
        features = [(f(batch.images), batch.labels) for batch in split.batches(256)]
        embedded[split.name] = statistics(np.concatenate([seen.embedding.numpy() for seen, _ in features]))
        right = sum(int((seen.logits.argmax(1) == labels).sum()) for seen, labels in features)
    return {
        "accuracy of f on the test images (%)": 100 * right / len(test),
        "fd_f of the test images": frechet(embedded["train"], embedded["test"]),
    }


def _page(cell: Cell, card: dict[str, Any], licence: str) -> str:
    rows = [
        f"| {kind} | {entry['parameters']:,} | {entry['images shown'] / 1000:,.0f} | {entry['seconds']:,.0f} |"
        for kind, entry in card["networks"].items()
    ]
    figures = [f"* {name}: {value:.4g}" for name, value in card["figures"].items()]
    return "\n".join(
        [
            f"# f, p and G of `{cell.dataset}` at {cell.data.size} pixels",
            "",
            "Trained by coinbench's own code on the training split alone; `coinbench run` uses them where data and",
            f"settings are those of `{shipped.CARD}`, and `--set problem.pretrained=false` trains anew.",
            "",
            "| network | parameters | thousand images shown | seconds |",
            "|---|---:|---:|---:|",
            *rows,
            "",
            f"Command: `{card['command']}`; commit {card['git']['commit'][:12]}"
            f"{' with changes' if card['git']['dirty'] else ''}.",
            "",
            "Figures (FD-f: Fréchet distance of 2,000 samples to the training images on f's embedding; for",
            "orientation that of the test images):",
            "",
            *figures,
            "",
            "![64 samples of G, not chosen](samples.png)",
            "",
            f"Licence of images and weights: {licence}. For examples, tests and teaching; the birds are drawings.",
            "",
        ]
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    given = parser.parse_args()
    cache = Cache(given.cache.absolute())
    cell = trained_here(given.dataset, tuple(given.sets), cache)
    out = shipped.assets() / f"{given.dataset}-{cell.data.size}"
    command = f"coinbench pretrain classifier|perceptual|generator --dataset {given.dataset}"
    card = ship(cell, cache, out, " ".join([command, *(f"--set {text}" for text in given.sets)]))
    print("\n".join(f"{name}: {value:.5g}" for name, value in card["figures"].items()))


if __name__ == "__main__":
    main()
