"""A pytest fixture for packages with plug-ins: `def test_it(conformance): conformance("my_package.pca:METHOD")`.

Installed with coinbench (entry point `pytest11`); nothing else is imported before the fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from coinbench.conformance import Report

Conformance = Callable[..., "Report"]


@pytest.fixture(scope="session")
def conformance() -> Conformance:
    """Return `check(target, *sets)`, which fails the test with the laws that are broken.

    `target` is a registered name or a "module:attribute"; `sets` are settings of a data set, as "data.root=DIR".
    """
    from coinbench.check import check

    def checked(target: str, *sets: str) -> Report:
        __tracebackhide__ = True
        report = check(target, sets)
        if not report.passed:
            pytest.fail(report.text(), pytrace=False)
        return report

    return checked
