"""Named random draws, keyed by what they are for and by sample index, never by stream position.

A number drawn for sample 7 is the same whatever batch sample 7 comes in and however often a run was interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Rng:
    """A node in a tree of named random sources; children are independent of each other.

    >>> Rng(0).child("fit", 3) == Rng(0).child("fit", 3)
    True
    """

    seed: int
    path: tuple[str, ...] = ()

    def child(self, *names: object) -> Rng:
        """Return the source called `names` below this one."""
        return Rng(self.seed, (*self.path, *(str(name) for name in names)))

    @property
    def key(self) -> int:
        """63-bit integer that identifies this source."""
        text = "\x1f".join((str(self.seed), *self.path))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

    def torch(self, device: Any = "cpu"):
        """Return a fresh `torch.Generator` for this source; each kind of device draws other numbers from it."""
        import torch

        return torch.Generator(device).manual_seed(self.key)

    def numpy(self) -> np.random.Generator:
        """Return a fresh `numpy.random.Generator` for this source."""
        return np.random.default_rng(self.key)

    def uniform(self, index: np.ndarray, width: int) -> np.ndarray:
        """Draw uniforms for samples: row i depends on `index[i]` alone.

        Args:
            index: integer array [N] of sample indices.
            width: number of draws per sample.

        Returns:
            float64 array [N, width] in [0, 1).

        >>> u = Rng(1).uniform(np.array([4, 9]), 3)
        >>> bool((u[1:] == Rng(1).uniform(np.array([9]), 3)).all())
        True
        """
        # A counter-based generator (splitmix64 finaliser over key, index, column): vectorised,
        # where a numpy generator per sample would cost 10 us each.
        column = np.arange(width, dtype=np.uint64)
        with np.errstate(over="ignore"):
            row = _mix(np.asarray(index).astype(np.uint64) * _GOLDEN + np.uint64(self.key))
            bits = _mix(row[:, None] + (column + np.uint64(1)) * _GOLDEN)
        return (bits >> np.uint64(11)).astype(np.float64) / float(1 << 53)

    def choose(self, index: np.ndarray, n: int) -> np.ndarray:
        """Return the sorted rows of n samples chosen by index: a sample's chance does not depend on its row.

        >>> rows = Rng(0).choose(np.arange(100), 3)
        >>> len(rows), bool((np.diff(rows) > 0).all()), len(Rng(0).choose(np.arange(2), 3))
        (3, True, 2)
        """
        return np.sort(np.argsort(self.uniform(index, 1)[:, 0], kind="stable")[:n])


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@contextmanager
def seeded(rng: Rng) -> Iterator[None]:
    """Make torch's global CPU generator that of `rng` inside the block: for initialising networks."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.key)
        yield
