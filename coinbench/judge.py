"""How good an unfinished generator is, seen with f: Fréchet distance of samples to training images, and classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from coinbench.metrics.frechet import frechet, statistics
from coinbench.models import Classifier, ImageGenerator
from coinbench.problem import Split
from coinbench.rng import Rng

SAMPLES, BATCH = 2000, 250


def judge_by(f: Classifier, split: Split) -> Callable[[ImageGenerator], dict[str, float]]:
    """Return what gives FD-f of 2,000 samples, and the rarest and most frequent class among them in percent.

    FD-f is between the embeddings of samples and of all training images, unaugmented (docs/metrics.md 4).
    """
    f.requires_grad_(False).eval()
    with torch.no_grad():
        parts = [f(batch.images).embedding.cpu().numpy() for batch in split.batches(BATCH)]
    real = statistics(np.concatenate(parts))
    # A large G has no room for many images at once.
    at_once = max(4, min(BATCH, 2**20 // split.pixels.shape[1] ** 2))

    @torch.no_grad()
    def judge(generator: ImageGenerator) -> dict[str, float]:
        embeddings, counts = [], np.zeros(f.n_classes)
        for part in range(SAMPLES // BATCH):
            for w in generator.sample(BATCH, Rng(5).child("judge", part)).split(at_once):
                features = f(generator(w))
                embeddings.append(features.embedding.cpu().numpy())
                counts += np.bincount(features.logits.argmax(1).cpu().numpy(), minlength=f.n_classes)
        share = 100 * counts / counts.sum()
        return {
            "fd_f": frechet(real, statistics(np.concatenate(embeddings))),
            "rarest class (%)": float(share.min()),
            "most frequent class (%)": float(share.max()),
        }

    return judge
