"""The output folder of a run: one run at a time, one configuration, written down before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from coinbench.errors import CoinbenchError, UsageError
from coinbench.files import read_json, write_json
from coinbench.overrides import validate
from coinbench.plan import RunConfig


def record(config: RunConfig, out: Path) -> None:
    """Write config.json before anything runs; refuse a folder whose cells have other settings."""
    path = out / "config.json"
    if path.is_file():
        try:
            old = validate(RunConfig, read_json(path))
        except CoinbenchError as error:
            raise UsageError(f"{path}: not the settings of a run ({error}); choose another --out") from error
        for dataset, variants in config.experiments.items():
            for variant, new in variants.items():
                known = old.experiments.get(dataset, {}).get(variant)
                if known is None:
                    continue
                same = new.model_copy(update={"methods": known.methods}) == known and all(
                    known.methods.get(name, method) == method for name, method in new.methods.items()
                )
                if not same:
                    raise UsageError(
                        f"{out}: holds a run of {dataset} with other settings (see {path}); choose another --out"
                    )
    write_json(path, config.model_dump(mode="json"))


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep two runs off one folder."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise UsageError(f"{out}: another run is using this folder; wait for it or choose another --out") from error
    except OSError as error:
        raise CoinbenchError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    try:
        yield
    finally:
        lock.release()
