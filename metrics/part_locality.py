"""Does raising a concept change the picture inside the part that it follows, and nowhere else (docs/metrics.md 19)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float

from coinbench import contract
from coinbench.config import EvaluationConfig
from coinbench.metric import Metric, MetricSpec, Records
from coinbench.metrics.part_alignment import redrawn
from coinbench.results import Score
from coinbench.statistics import summarise
from coinbench.trace import Trace
from coinbench.truth import region

_RAISED = 2.0
_POOL = 4
_NOTHING = 1e-8
"""Mean squared change below which there is none."""

_PROTOCOL = (
    "for each concept k those on which pooled_k is least, the first where it is equal, of the first "
    f"{_POOL} times as many test scenes with independent parts (as part_alignment); x⁺: all cells of φ_k set to "
    f"{_RAISED:g} times its largest pooled value in any, the rest and Φ′ untouched; change: |x⁺ − x̃|² summed over "
    "channels; inside: where any value of the part that k follows could change a pixel; share of the change, summed "
    "over the scenes, that lies inside; 0 where nothing changes (less than 1e-4 a pixel, root mean square); a concept "
    "that follows no part has the mean over all parts; mean over concepts; 95 % interval over concepts"
)

LOCALITY = MetricSpec(
    name="part_locality",
    version=1,
    unit="fraction",
    bounds=(0.0, 1.0),
    higher_is_better=True,
    source="docs/metrics.md 19",
    protocol=_PROTOCOL,
    null=(
        "any part: the share of the same changes inside a part chosen at random, mean over all parts, which is what "
        "concepts without a relation to parts score; even: the share of the picture that the part takes, which is "
        "what a change of the whole picture scores"
    ),
    formula="mean over k of Σ over the part of |x⁺ − x̃|² / Σ |x⁺ − x̃|²",
    oracle="1",
)


def shares(change: Float[np.ndarray, "n H W"], inside: Bool[np.ndarray, "parts n H W"]) -> Float[np.ndarray, "parts"]:
    """Return which share of the change lies inside each part; 0 where nothing changes but by rounding.

    >>> shares(np.array([[[3.0, 1.0]]]), np.array([[[[True, False]]], [[[True, True]]]])).tolist()
    [0.75, 1.0]
    """
    total = change.sum()
    return (inside * change).sum((1, 2, 3)) / total if total > _NOTHING * change.size else np.zeros(len(inside))


class PartLocality(Metric):
    """Share of a concept's change inside its part."""

    takes_turns = True
    specs = (LOCALITY,)
    truth = True
    cost = f"K · locality_images decodes and {_POOL} · locality_images drawings of every value of every part"

    def update(self, trace: Trace) -> None:
        """Use nothing of the pass: the scenes are drawn anew."""

    @torch.no_grad()
    def records(self) -> Records:
        """Return one row per concept: its part, the shares inside that and inside any, and the part's share of area."""
        evaluation = self.evaluation
        problem, coin, found = evaluation.problem, evaluation.coin, evaluation.once("redrawn parts", redrawn)
        truth, most = problem.truth, evaluation.config.locality_images
        assert truth is not None
        largest = found.concepts.pooled.amax(0).tolist()
        # The regions of a scene take long to draw: all concepts are raised on scenes of one small pool.
        pool = slice(0, _POOL * most)
        index, factors, concepts = found.index[pool], found.factors[pool], found.concepts.rows(pool)
        scenes = np.stack([column.argsort(kind="stable")[:most] for column in concepts.pooled.numpy().T])
        parts = range(len(truth.part_names))
        inside = np.stack([region(truth, index, problem.size, factors, part) for part in parts])
        like = torch.empty(1, problem.channels, problem.size, problem.size)
        concepts = concepts.to(problem.device)
        starts = [slice(i, i + evaluation.config.batch) for i in range(0, len(index), evaluation.config.batch)]
        before = torch.cat([contract.decode(coin, concepts.rows(start), like).double().cpu() for start in starts])
        rows = []
        for k, followed in enumerate(found.followed):
            evaluation.log.check()
            some = torch.from_numpy(scenes[k])
            chosen = concepts.rows(some.to(problem.device))
            mask = (torch.arange(coin.n_concepts, device=problem.device) == k)[None]
            raised = chosen.swap(mask, chosen.constant(_RAISED * largest[k]))
            after = contract.decode(coin, raised, like).double().cpu()
            here = inside[:, scenes[k]]
            of_parts = shares((after - before[some]).square().sum(1).numpy(), here)
            areas = here.mean((1, 2, 3))
            rows.append(
                {
                    "part": truth.part_names[followed] if followed >= 0 else "none",
                    "inside": of_parts[followed] if followed >= 0 else of_parts.mean(),
                    "any": of_parts.mean(),
                    "even": areas[followed] if followed >= 0 else areas.mean(),
                }
            )
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        return {"concept": np.arange(len(rows)), "scenes": np.full(len(rows), scenes.shape[1]), **columns}

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return the mean of each arm, and each concept's share."""
        detail = f"{int(records['scenes'][0])} scenes a concept, of {config.part_images}"
        arms = (("method", "inside"), ("any part", "any"), ("even", "even"))
        rows = [
            summarise(LOCALITY, records[column], config, arm=arm, detail=detail, over="concepts")
            for arm, column in arms
        ]
        for k, part, value, n in zip(
            records["concept"], records["part"], records["inside"], records["scenes"], strict=True
        ):
            told = f"follows {part}"
            rows.append(LOCALITY.score(value, n=int(n), subject=f"concept:{k}", params=told, detail=detail))
        return rows
