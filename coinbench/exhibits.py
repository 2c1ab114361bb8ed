"""Images that reports show: reconstructions, and concepts at λ = 0, 1, 4 for classes and single images (paper 3.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from coinbench.bank import ConceptBank
from coinbench.coin import CoIN, normalise, relevance
from coinbench.concepts import Concepts
from coinbench.files import write_atomically, write_json
from coinbench.problem import Problem, to_uint8
from coinbench.rng import Rng

LAMBDAS = (0.0, 1.0, 4.0)
N_RECONSTRUCTIONS = 10
N_PAIRS = 8
N_IMAGES = 3
N_LOCAL = 6
N_RELEVANT = 4


@torch.no_grad()
def save_exhibits(coin: CoIN, problem: Problem, bank: ConceptBank, rng: Rng, folder: Path) -> None:
    """Write PNG strips and images/index.json for the reports; whoever changes them raises digests.EXHIBITS."""
    pairs = relevant_pairs(bank.global_relevance(problem.n_classes), N_PAIRS)
    sheet = [_pair(coin, problem, bank, number, y, k, r, folder) for number, (y, k, r) in enumerate(pairs)]
    index = {
        "reconstructions": _reconstructions(coin, problem, folder),
        "lambdas": list(LAMBDAS),
        "sheet": [pair for pair in sheet if pair["images"]],
        "local": _local(coin, problem, rng, folder),
    }
    write_json(folder / "index.json", index)


def relevant_pairs(relevance: Float[Tensor, "Y K"], n: int) -> list[tuple[int, int, float]]:
    """Return the n pairs (class, concept, r_{k,c}) of highest relevance > 0, each concept once.

    >>> relevant_pairs(torch.tensor([[0.9, 0.1], [0.8, 0.0]]), 2)
    [(0, 0, 0.9), (0, 1, 0.1)]
    """
    order = relevance.flatten().argsort(descending=True, stable=True).tolist()
    pairs: dict[int, tuple[int, int, float]] = {}
    for position in order:
        y, k = divmod(position, relevance.shape[1])
        value = float(relevance[y, k])
        if value <= 0 or len(pairs) == n:
            break
        pairs.setdefault(k, (y, k, round(value, 4)))
    return list(pairs.values())


def _pair(
    coin: CoIN, problem: Problem, bank: ConceptBank, number: int, y: int, k: int, r: float, folder: Path
) -> dict[str, Any]:
    """Write the strips of one pair: its most activating training images, original | λ = 0 | 1 | 4."""
    rows = (bank.predicted == y).nonzero()[:, 0]
    rows = rows[bank.concepts.pooled[rows, k].argsort(descending=True, stable=True)[:N_IMAGES]]
    concepts = bank.concepts.rows(rows).to(problem.device)
    steps = [coin.decode(_amplified(concepts, k, value)) for value in LAMBDAS]
    originals = problem.train.take(rows.numpy()).images
    images = []
    for position, row in enumerate(rows.tolist()):
        name = f"sheet-{number:02d}-{position}.png"
        _strip([to_uint8(stage[position : position + 1])[0] for stage in (originals, *steps)], folder / name)
        images.append(
            {
                "index": int(bank.index[row]),
                "pooled": round(float(bank.concepts.pooled[row, k]), 4),
                "tiles": name,
            }
        )
    return {"class": problem.class_names[y], "concept": k, "relevance": r, "images": images}


def _local(coin: CoIN, problem: Problem, rng: Rng, folder: Path) -> list[dict[str, Any]]:
    """Write a strip for each of some test images: x | its concepts, each at λ = 0 | 1 | 4 (λ = 1 is x̃)."""
    rows = one_a_class(problem.test.labels, rng.uniform(problem.test.index, 1)[:, 0], N_LOCAL)
    batch = problem.test.take(rows)
    concepts = coin.encode(batch.images)
    predicted = coin.predict(concepts).argmax(1)
    r = normalise(relevance(coin, concepts, predicted)).cpu()
    found = []
    for i, row in enumerate(batch.index.tolist()):
        mine = concepts.rows(slice(i, i + 1))
        chosen = relevant_concepts(r[i], N_RELEVANT)
        stages = [coin.decode(_amplified(mine, k, value)) for k, _ in chosen for value in LAMBDAS]
        name = f"local-{i:02d}.png"
        _strip([to_uint8(stage)[0] for stage in (batch.images[i : i + 1], *stages)], folder / name)
        found.append(
            {
                "index": row,
                "label": problem.class_names[int(batch.labels[i])],
                "predicted": problem.class_names[int(predicted[i])],
                "concepts": [{"concept": k, "relevance": value} for k, value in chosen],
                "tiles": name,
            }
        )
    return [item for item in found if item["concepts"]]


def one_a_class(labels: np.ndarray, draw: np.ndarray, n: int) -> np.ndarray:
    """Return the rows of up to n samples of different classes, in the order of their draws.

    >>> one_a_class(np.array([0, 0, 1]), np.array([0.2, 0.1, 0.0]), 5).tolist()
    [2, 1]
    """
    order = draw.argsort(kind="stable")
    _, first = np.unique(labels[order], return_index=True)
    return order[np.sort(first)[:n]]


def relevant_concepts(r: Float[Tensor, "K"], n: int) -> list[tuple[int, float]]:
    """Return (k, r_k(x)) of the n largest relevances > 0, and of the smallest if it is < 0.

    >>> relevant_concepts(torch.tensor([0.5, -0.2, 1.0, -0.4, 0.0]), 3)
    [(2, 1.0), (0, 0.5), (3, -0.4)]
    """
    order = r.argsort(descending=True, stable=True).tolist()
    against = [k for k in order[-1:] if r[k] < 0]
    return [(k, round(float(r[k]), 4)) for k in (*[k for k in order[:n] if r[k] > 0], *against)]


def _amplified(concepts: Concepts, k: int, value: float) -> Concepts:
    factor = torch.ones_like(concepts.pooled[:1])
    factor[:, k] = value
    return concepts.scale(factor)


def _reconstructions(coin: CoIN, problem: Problem, folder: Path) -> dict[str, Any]:
    """Write the first test images of as many classes as fit, and their reconstructions."""
    labels = problem.test.labels
    first = np.unique(labels, return_index=True)[1]
    others = np.setdiff1d(np.arange(len(labels)), first)
    rows = np.concatenate([first, others])[:N_RECONSTRUCTIONS]
    batch = problem.test.take(rows)
    concepts = coin.encode(batch.images)
    _strip(list(to_uint8(batch.images)), folder / "originals.png")
    _strip(list(to_uint8(coin.decode(concepts))), folder / "reconstructions.png")
    predicted = coin.predict(concepts).argmax(1).tolist()
    return {
        "originals": "originals.png",
        "reconstructions": "reconstructions.png",
        "tile": [problem.size, problem.size],
        "index": batch.index.tolist(),
        "labels": [problem.class_names[int(y)] for y in batch.labels],
        "predicted": [problem.class_names[y] for y in predicted],
    }


def _strip(tiles: list[np.ndarray], path: Path) -> None:
    strip = np.concatenate(tiles, axis=1)
    with write_atomically(path) as temporary:
        Image.fromarray(strip[..., 0] if strip.shape[2] == 1 else strip).save(temporary, format="PNG")
