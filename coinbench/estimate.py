"""What the rest of a run would cost in time, memory and disk, from trials of its own steps in another process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from coinbench.cache import Cache
from coinbench.config import Cell, digest
from coinbench.digests import evaluate_digest
from coinbench.errors import CoinbenchError, DataError
from coinbench.executors.local import ALLOCATION
from coinbench.outlook import THERE, Outlook, Stage, stages, state_of
from coinbench.plan import Planned
from coinbench.progress import Display

_NETWORKS = ("classifier", "generator", "perceptual")


@dataclass(slots=True)
class _Task:
    """A cell that stands for all whose trials would be the same, and what is tried of it."""

    cell: Planned
    trainings: list[Stage]
    decode: bool
    evaluate: bool
    found: dict[str, Any]


def _alike(cell: Cell) -> str:
    """Return what cells have in common that cost the same: all but the seed and the names."""
    parts = (cell.data, cell.problem, cell.method, cell.evaluation)
    return digest([cell.data_fingerprint, *(part.key() for part in parts), cell.metrics])


def estimate(outlook: Outlook, cache: Cache, jobs: int, steps: int, device: str, display: Display) -> dict[str, Any]:
    """Try some steps of each training that is missing and a sample of each evaluation; return what all would cost.

    Args:
        outlook: of the run.
        cache: read from only.
        jobs: cells at a time.
        steps: of each training that count.
        device: auto, cpu, cuda or cuda:N.
        display: of progress.

    Returns:
        `stages` and `evaluations` with what was measured of each, `cells` with the seconds of each, and `total`.

    Raises:
        CoinbenchError: the trials' process ended early.
        DataError: nothing could be measured.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    tasks = _tasks(outlook, cache)
    place, ready = "nothing to measure", 0.0
    if tasks:
        place, ready = _try(tasks, outlook, cache, threads, steps, device, display)
    errors = [task.found["error"] for task in tasks.values() if "error" in task.found]
    if errors and not any(task.found["trainings"] or "evaluation" in task.found for task in tasks.values()):
        raise DataError(f"nothing could be measured: {errors[0]}")
    shared = _shared(tasks, outlook, cache)
    evaluations, cells = _cells(tasks, outlook, cache, ready)
    unknown = [row["of"] for row in (*shared, *cells) if row["seconds"] is None]
    known = [row["seconds"] or 0.0 for row in cells]
    peaks = [row["memory"] for row in (*shared, *evaluations, *cells) if row["memory"]]
    at_once = min(jobs, sum(seconds > 0 for seconds in known))
    return {
        "how": _how(place, threads, steps, tasks, outlook),
        "stages": shared,
        "evaluations": evaluations,
        "cells": cells,
        "total": {
            "jobs": jobs,
            # Cells share what is trained once: it comes first, then the cells.
            "seconds": makespan([row["seconds"] or 0.0 for row in shared], at_once) + makespan(known, at_once),
            "memory": max(peaks, default=0) * at_once,
            "disk": sum(row["disk"] for row in (*shared, *cells)),
            "not included": unknown,
        },
    }


def makespan(seconds: list[float], jobs: int) -> float:
    """Return when the last of some jobs ends that are begun in order, so many at a time.

    >>> makespan([3.0, 1.0, 1.0, 4.0], 2), makespan([], 2), makespan([5.0], 0)
    (6.0, 0.0, 5.0)
    """
    free = [0.0] * max(1, jobs)
    for one in seconds:
        free.sort()
        free[0] += one
    return max(free)


def _tasks(outlook: Outlook, cache: Cache) -> dict[str, _Task]:
    tasks: dict[str, _Task] = {}
    seen: set[str] = set()
    for cell in outlook.planned:
        if cell.done:
            continue
        key, shape = _alike(cell.cell), outlook.shapes[cell.digest]
        task = tasks.setdefault(key, _Task(cell, [], False, False, {}))
        task.evaluate |= state_of(cache, "evaluate", evaluate_digest(cell.cell)) != "cached"
        for stage in stages(cell.cell, cache):
            if stage.state in THERE:
                continue
            name = stage.digest if stage.kind != "fit" else key
            if f"{stage.kind} {name}" not in seen:
                seen.add(f"{stage.kind} {name}")
                task.trainings.append(stage)
        data = f"data {cell.cell.data_fingerprint} {digest(cell.cell.data.key())}"
        if shape.here and shape.unstored and data not in seen:
            seen.add(data)
            task.decode = True
    return {key: task for key, task in tasks.items() if task.trainings or task.evaluate or task.decode}


def _try(
    tasks: dict[str, _Task], outlook: Outlook, cache: Cache, threads: int, steps: int, device: str, display: Display
) -> tuple[str, float]:
    """Let a process like a worker's do the trials; return its device, and the seconds that it took to start."""
    asked = []
    for task in tasks.values():
        shape, kinds = outlook.shapes[task.cell.digest], [stage.kind for stage in task.trainings]
        choose = "classifier" in kinds and task.cell.cell.problem.classifier.select_every > 0
        asked.append(
            {
                "cell": task.cell.cell.model_dump(mode="json"),
                "shape": {**asdict(shape), "stored": shape.stored},
                "trainings": kinds,
                "choose": choose and shape.val > 0,
                "decode": task.decode,
                "evaluate": task.evaluate,
            }
        )
    request = {"cache": str(cache.root), "threads": threads, "steps": steps, "tasks": asked}
    began = time.monotonic()
    # A file, not a pipe: nobody reads what foreign code prints until the end.
    complaint = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-m", "coinbench", "trial", "--device", device],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaint,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env={**ALLOCATION, **os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    place, ready, waiting = "", 0.0, deque(tasks.values())
    try:
        with suppress(BrokenPipeError):
            # A process that is gone already says why on stderr.
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        display.event("plan", {"stage": "trial", "text": "starting a process like a worker's"})
        for line in process.stdout:
            event = json.loads(line)
            if "ready" in event:
                place, ready = event["ready"], time.monotonic() - began
            elif "found" in event:
                waiting.popleft().found = event["found"]
            else:
                display.event("plan", event)
        if waiting:
            code = process.wait()
            complaint.seek(0)
            last = complaint.read().strip().splitlines()[-1:] or [f"code {code}"]
            raise CoinbenchError(f"the trials ended early ({last[0]}); --no-measure lists the cells alone")
    finally:
        process.kill()
        process.communicate()
        complaint.close()
    return place, ready


def _shared(tasks: dict[str, _Task], outlook: Outlook, cache: Cache) -> list[dict[str, Any]]:
    """Return a row for each set of pixels and each of f, G and p that is to be made, once for all cells."""
    rows = []
    for task in tasks.values():
        cell, shape = task.cell, outlook.shapes[task.cell.digest]
        if task.decode:
            images = sum(n for n, _ in shape.unstored)
            each = task.found.get("decoding")
            row = _row(cell, "data", images, None if each is None else each * images)
            rows.append(row | {"disk": shape.bytes})
        elif not shape.here and not any(r["of"] == f"{cell.cell.dataset} data" for r in rows):
            rows.append(_row(cell, "data", sum(n for n, _ in shape.unstored), None) | {"disk": shape.bytes})
        for stage in task.trainings:
            if stage.kind not in _NETWORKS:
                continue
            row = _training(cell, stage, task.found)
            if stage.kind == "classifier" and row["seconds"] is not None and "choosing" in task.found:
                # A look every so many steps, and at the end.
                looks = -(-stage.steps // cell.cell.problem.classifier.select_every)
                row["seconds"] += looks * shape.val * task.found["choosing"]
            rows.append(row | {"disk": task.found.get("weights", {}).get(stage.kind, 0)})
    return rows


def _row(cell: Planned, kind: str, count: int, seconds: float | None) -> dict[str, Any]:
    return {
        "of": f"{cell.cell.dataset} {kind}",
        "kind": kind,
        "count": count,
        "ms": None if seconds is None or not count else 1000 * seconds / count,
        "quartiles": None,
        "seconds": seconds,
        "memory": 0,
        "disk": 0,
        "note": "",
    }


def _training(cell: Planned, stage: Stage, found: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a training: the mean of its steps times how many are left."""
    measured = found["trainings"].get(stage.kind)
    if not measured or not measured["seconds"]:
        note = measured["note"] if measured else found.get("error", "")
        return _row(cell, stage.kind, stage.steps, None) | {"note": note}
    times, whole = measured["seconds"], measured["whole"]
    count = 1 if whole else stage.steps
    # The mean, not the median: in some trainings one step in sixteen is the dear one.
    row = _row(cell, stage.kind, count, statistics.fmean(times) * count)
    if len(times) > 1:
        low, _, high = statistics.quantiles(times, n=4, method="inclusive")
        row["quartiles"] = [1000 * low, 1000 * high]
    note = measured["note"] or ("trained whole, it tells no steps" if whole else f"{len(times)} steps measured")
    return row | {"memory": measured["memory"], "note": note}


def _cells(
    tasks: dict[str, _Task], outlook: Outlook, cache: Cache, ready: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what an evaluation of each kind of cell takes, and a row for each cell; one that is done costs nothing."""
    evaluations, rows = [], []
    told: set[str] = set()
    for cell in outlook.planned:
        task = tasks.get(_alike(cell.cell)) if not cell.done else None
        row = _row(cell, cell.label, 0, 0.0) | {"of": cell.label, "kind": "cell", "fit": 0.0, "evaluate": 0.0}
        if task is not None:
            (fit,) = [stage for stage in stages(cell.cell, cache) if stage.kind == "fit"]
            evaluation = task.found.get("evaluation")
            if fit.state not in THERE:
                trained = _training(cell, fit, task.found)
                row |= {key: trained[key] for key in ("count", "ms", "quartiles", "memory", "note")}
                row["fit"] = trained["seconds"]
                row["disk"] += 2 * (evaluation or {}).get("weights", 0)
            if state_of(cache, "evaluate", evaluate_digest(cell.cell)) != "cached":
                row["evaluate"] = sum(evaluation["seconds"].values()) if evaluation else None
                # In the cache and in the output folder, as the weights.
                row["disk"] += 2 * (evaluation or {}).get("disk", 0)
            parts = [row["fit"], row["evaluate"]]
            row["seconds"] = None if None in parts else ready + sum(parts)
            row["note"] = row["note"] or task.found.get("error", "")
            if evaluation and _alike(cell.cell) not in told:
                told.add(_alike(cell.cell))
                evaluations.append({"of": cell.label, **evaluation})
        rows.append(row)
    return evaluations, rows


def _how(place: str, threads: int, steps: int, tasks: dict[str, _Task], outlook: Outlook) -> list[str]:
    """Return how it was measured, in sentences."""
    if not tasks:
        return ["nothing is left to do"]
    shapes = [outlook.shapes[task.cell.digest] for task in tasks.values()]
    images = {"images of the data set" if shape.stored else "noise of its shape" for shape in shapes}
    untrained = sorted({kind for task in tasks.values() for kind in task.found.get("untrained", [])})
    sampled = [task.found["evaluation"]["images"] for task in tasks.values() if "evaluation" in task.found]
    told = [
        f"on {place}, {threads} threads, one trial at a time; on {' and '.join(sorted(images))}",
        f"each training: {steps} steps (a generator: whole periods of its penalties) after one that warms up; "
        "their mean times the steps left",
    ]
    if sampled:
        told.append(
            f"each evaluation: samples of {', '.join(map(str, max(sampled, key=len)))} images, a + b · images"
            + (
                ""
                if all(task.found["evaluation"]["trained"] for task in tasks.values() if "evaluation" in task.found)
                else "; by untrained methods, of which fewer concepts may be alive: a trained one can take longer"
            )
        )
    if untrained:
        told.append(f"at initialisation: {', '.join(untrained)}")
    told.append("not in it: waiting for each other, tables, figures and report at the end")
    return told
