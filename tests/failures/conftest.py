"""A finished small run that the tests of failures copy, break and mend."""

from __future__ import annotations

import pytest
from small_cell import Place


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    # Not above: whoever collects tests need not load torch.
    from coinbench.log import Log
    from coinbench.outfolder import record
    from coinbench.work import choose_device, work

    place = Place(tmp_path_factory.mktemp("finished"))
    record(place.config, place.out)
    work(place.planned, place.cache, choose_device("cpu"), Log(place.out))
    return place


@pytest.fixture
def place(finished: Place, tmp_path) -> Place:
    """A copy that a test may break."""
    return finished.copy(tmp_path / "place")
