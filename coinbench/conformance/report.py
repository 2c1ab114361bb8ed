"""What a check found, law by law, in words; a broken plug-in gives a report, never a traceback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor

from coinbench import plugins
from coinbench.errors import ContractError, MetricError

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"


class Broken(Exception):
    """A law does not hold; says in words what came and what was expected."""


class Skipped(Exception):
    """A law cannot be tried here; says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How one law fared."""

    law: str
    state: str
    """ok, FAILED or skipped."""
    words: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about one method, metric, data set or generator."""

    subject: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Tell whether no law is broken."""
        return not self.failures

    @property
    def failures(self) -> list[Finding]:
        """Return the broken laws."""
        return [finding for finding in self.findings if finding.state == FAILED]

    def text(self) -> str:
        """Return the report as lines for a terminal.

        >>> print(Report("metric mse", (Finding("it counts", "ok"), Finding("it sums", "FAILED", "got 3"))).text())
        metric mse
          ok       it counts
          FAILED   it sums: got 3
        1 of 2 laws broken
        """
        rows = [f"  {f.state:<8} {f.law}{f': {f.words}' if f.words else ''}" for f in self.findings]
        skipped = sum(f.state == SKIPPED for f in self.findings)
        kept = f"keeps all {len(self.findings)} laws{f', {skipped} of them not tried' if skipped else ''}"
        broken = f"{len(self.failures)} of {len(self.findings)} laws broken"
        return "\n".join([self.subject, *rows, broken if self.failures else kept])

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"subject": self.subject, "passed": self.passed, "findings": [asdict(f) for f in self.findings]}


@dataclass(slots=True)
class Steps:
    """Results that several laws need, made once; where making one failed, only the first law that asked is broken."""

    made: dict[str, Any] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    def once(self, step: str, make: Callable[[], Any]) -> Any:
        """Return the result of a step.

        Raises:
            Skipped: it failed before.
        """
        if step in self.failed:
            raise Skipped(f"not tried, because {step} failed")
        if step not in self.made:
            try:
                self.made[step] = make()
            except Skipped:
                raise
            except Exception:
                self.failed.add(step)
                raise
        return self.made[step]


Bench = TypeVar("Bench")


@dataclass(frozen=True, slots=True)
class Law(Generic[Bench]):
    """One thing asked of everything of a kind."""

    title: str
    test: Callable[[Bench], str | None]
    """Raises where the law does not hold; may return a remark."""


def examine(subject: str, laws: Sequence[Law[Bench]], bench: Bench, files: Sequence[Path] = ()) -> Report:
    """Try every law; whatever a test raises is a finding, with the place in `files` where it was raised."""
    return Report(subject, tuple(_tried(law, bench, files) for law in laws))


def _tried(law: Law[Bench], bench: Bench, files: Sequence[Path]) -> Finding:
    try:
        return Finding(law.title, OK, law.test(bench) or "")
    except Skipped as reason:
        return Finding(law.title, SKIPPED, str(reason))
    except (Broken, ContractError, MetricError) as error:
        return Finding(law.title, FAILED, str(error))
    except Exception as error:
        return Finding(law.title, FAILED, f"raised {plugins.told(error, *files)}")


def demand(holds: object, words: str) -> None:
    """Break the law unless it holds."""
    if not holds:
        raise Broken(words)


def alike(a: Tensor, b: Tensor, words: str, rtol: float = 1e-4, atol: float = 1e-4) -> None:
    """Break the law unless two tensors agree to rounding."""
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    demand(a.shape == b.shape, f"{words}: shape {list(a.shape)} against {list(b.shape)}")
    excess = (a - b).abs() - (atol + rtol * b.abs())
    # Written so that a NaN breaks the law.
    if a.numel() and not bool((excess <= 0).all()):
        raise Broken(f"{words} (by up to {float((a - b).abs().max()):.2g})")
