"""Which settings of StyleGAN2's training keep all classes of a data set, for so many minutes each.

    coinbench pretrain classifier --dataset birds --cache DIR
    python benchmarks/gan_sweep.py r1=0.05 r1=1 r1=4 r1=16 --cache DIR --minutes 8

Each argument is one variant, `setting=value` joined by commas, of the data set's own generator settings. After every
5,000 images FD-f of 2,000 samples and the rarest and the most frequent class among them, of G and of its average, go
to benchmarks/results/gan_sweep.json. Variants of an earlier call stay there, but for those measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from collect import RESULTS, origin
from ship import trained_here

from coinbench.cache import Cache
from coinbench.config import Cell
from coinbench.files import read_json, write_json
from coinbench.generators.stylegan2 import StyleGAN2Generator, build
from coinbench.generators.stylegan2_config import StyleGAN2Config
from coinbench.generators.stylegan2_training import Duel, build_discriminator
from coinbench.judge import judge_by
from coinbench.log import Log
from coinbench.pretrain import build_networks, load_split, open_source
from coinbench.rng import Rng

EVERY = 5000
"""Images between two looks."""
FILE = RESULTS / "gan_sweep.json"


def changed(config: StyleGAN2Config, variant: str) -> StyleGAN2Config:
    """Return the settings with those of a variant in their place.

    >>> changed(StyleGAN2Config(), "r1=4,augment=false").r1
    4.0
    """
    given = {name: json.loads(value) for name, _, value in (part.partition("=") for part in variant.split(","))}
    return StyleGAN2Config.model_validate(config.model_dump() | given)


def measure(config: StyleGAN2Config, cell: Cell, cache: Cache, minutes: float) -> list[dict[str, Any]]:
    """Train for so many minutes, without the time of judging; return what was seen on the way."""
    source = open_source(cell.data, cache)
    train = load_split("train", cell.data, source, cache, torch.device("cpu"))
    networks = build_networks(cell, source, train, cache)
    networks.stages["classifier"].load(cache, Log(cache.root))
    judge, rng = judge_by(networks.classifier.eval(), train), Rng(0).child("generator")
    network = build(config, cell.data.size, train.pixels.shape[3], rng).network
    duel = Duel(config, network, build_discriminator(config, network, rng), train)
    rows: list[dict[str, Any]] = []
    spent, step, batch = 0.0, 0, config.train.batch
    while spent < 60 * minutes:
        began = time.perf_counter()
        duel.step(step, rng)
        spent, step = spent + time.perf_counter() - began, step + 1
        if step * batch // EVERY > (step - 1) * batch // EVERY:
            row: dict[str, Any] = {"kimg": step * batch / 1000, "minutes": round(spent / 60, 2)}
            for name, seen in (("average", duel.average), ("G", duel.generator)):
                row[name] = judge(StyleGAN2Generator(seen.eval(), cell.data.size, config))
            duel.generator.train()
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    """Measure each variant and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", metavar="NAME=VALUE[,NAME=VALUE...]")
    parser.add_argument("--dataset", default="birds")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="PATH=VALUE")
    parser.add_argument("--cache", type=Path, required=True, help="where f was trained")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cache = Cache(given.cache)
    cell = trained_here(given.dataset, tuple(given.sets), cache)
    for variant in given.variants:
        assert isinstance(cell.problem.generator, StyleGAN2Config)
        rows = measure(changed(cell.problem.generator, variant), cell, cache, given.minutes)
        told = read_json(FILE) if FILE.is_file() else {"variants": {}}
        measured_by = origin(f"python benchmarks/gan_sweep.py {variant}", given.threads)
        told["variants"][variant] = {"origin": measured_by, "rows": rows}
        write_json(FILE, told)


if __name__ == "__main__":
    main()
