"""Weights that come with coinbench: f, p and G of data sets that are always at hand. Never imports torch.

They are used where data and settings are those they were trained with; `problem.pretrained=false` trains here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coinbench.config import Cell, Config
from coinbench.errors import CoinbenchError, DataError
from coinbench.files import read_json

CARD = "card.json"


@dataclass(frozen=True, slots=True)
class Shipped:
    """One network's weights."""

    path: Path
    sha256: str

    def check(self) -> Path:
        """Return the file, which is whole.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            found = hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"{self.path}: not readable ({error.strerror}); install coinbench again") from error
        if found != self.sha256:
            raise DataError(
                f"{self.path}: is damaged (sha256 {found[:16]}, expected {self.sha256[:16]}); install coinbench again"
            )
        return self.path


def assets() -> Path:
    """Return the folder of shipped weights, a folder for each data set at a size."""
    return Path(__file__).parent / "assets"


def find(kind: str, config: Config, cell: Cell) -> Shipped | None:
    """Return the shipped weights of a network of a cell; None where there are none, or the cell trains its own.

    Args:
        kind: classifier, generator or perceptual.
        config: the settings of that network.
        cell: with the data.

    Raises:
        DataError: a card is damaged.
    """
    if not cell.problem.pretrained:
        return None
    for card in sorted(assets().glob(f"*/{CARD}")):
        told = _read(card)
        if told["data_fingerprint"] != cell.data_fingerprint or told["data"] != cell.data.key():
            continue
        entry = told["networks"].get(kind)
        if entry is not None and entry["settings"] == config.weights_key():
            return Shipped(card.parent / entry["file"], entry["sha256"])
    return None


def _read(card: Path) -> dict[str, Any]:
    try:
        told = read_json(card)
        if not {"data_fingerprint", "data", "networks"} <= told.keys():
            raise CoinbenchError("an entry is missing")
    except (CoinbenchError, AttributeError) as error:
        raise DataError(f"{card}: is damaged ({error}); install coinbench again") from error
    return told
