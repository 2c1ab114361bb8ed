"""Plug-ins: packages that name theirs in entry points, and files given by `--plugin FILE.py`. No torch.

A file declares what it holds in one dictionary, with the kinds that the entry-point groups are called by:

    COINBENCH = {"methods": {"pca": METHOD}, "metrics": {"brightness": Brightness}}

Files reach worker processes through the environment, so that a cell is the same wherever it runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from coinbench.errors import UsageError, unknown

VARIABLE = "COINBENCH_PLUGINS"
"""Plug-in files, separated as in PATH."""
DECLARATION = "COINBENCH"
EXPECTED = {
    "methods": ("coinbench.specs", "MethodSpec"),
    "metrics": ("coinbench.metric", "Metric"),
    "problems": ("coinbench.specs", "DatasetSpec"),
    "classifiers": ("coinbench.specs", "ClassifierSpec"),
    "generators": ("coinbench.specs", "GeneratorSpec"),
}
"""Kind -> module and name of the type that each of its entries has; a metric is a subclass of it."""


def use(paths: Iterable[Path]) -> None:
    """Add files to those of this process and of its workers.

    Raises:
        UsageError: a file is not there.
    """
    for path in paths:
        if not path.is_file():
            raise UsageError(
                f"--plugin {path}: no such file; give a Python file (an installed package needs no --plugin)"
            )
    given = [*files(), *(path.absolute() for path in paths)]
    os.environ[VARIABLE] = os.pathsep.join(str(path) for path in dict.fromkeys(given))


def files() -> tuple[Path, ...]:
    """Return the plug-in files of this process, in the order given."""
    return tuple(Path(text).absolute() for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text)


def declared(kind: str) -> dict[str, tuple[Path, Any]]:
    """Return name -> (file, entry) of the plug-in files.

    Raises:
        UsageError: a file cannot be used, or two declare one name.
    """
    found: dict[str, tuple[Path, Any]] = {}
    for path in files():
        for name, value in read(path).get(kind, {}).items():
            if name in found:
                raise UsageError(f"--plugin {path}: {found[name][0]} has {name!r} among its {kind} too; rename one")
            found[name] = (path, value)
    return found


@cache
def read(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Import a plug-in file, once, and return what it declares: kind -> name -> entry.

    Raises:
        UsageError: it is missing, raises, or declares nothing or something of a wrong type.
    """
    module = _imported(path)
    declaration = getattr(module, DECLARATION, None)
    if not isinstance(declaration, dict) or not all(isinstance(part, dict) for part in declaration.values()):
        raise UsageError(
            f'--plugin {path}: declares nothing; write {DECLARATION} = {{"methods": {{"NAME": METHOD}}}} at its end '
            f"(kinds: {', '.join(EXPECTED)})"
        )
    for kind, entries in declaration.items():
        if kind not in EXPECTED:
            raise UsageError(f"--plugin {path}: {unknown(f'kind in {DECLARATION}', str(kind), list(EXPECTED))}")
        for name, value in entries.items():
            if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum():
                raise UsageError(f"--plugin {path}: {name!r} is no name: letters, digits, - and _ make one")
            checked(kind, value, f"--plugin {path}: {DECLARATION}[{kind!r}][{name!r}]")
    return declaration


def checked(kind: str, value: Any, where: str) -> Any:
    """Return `value` if it is what an entry of this kind must be.

    Raises:
        UsageError: it is not; says what it is.
    """
    module, name = EXPECTED[kind]
    expected = getattr(importlib.import_module(module), name)
    fits = isinstance(value, type) and issubclass(value, expected) if kind == "metrics" else isinstance(value, expected)
    if not fits:
        wanted = f"a subclass of {name}" if kind == "metrics" else f"a {name}"
        got = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        raise UsageError(f"{where} is {got}, expected {wanted}")
    if kind == "metrics":
        specs = getattr(value, "specs", ())
        if not isinstance(specs, tuple) or not specs or not all(type(spec).__name__ == "MetricSpec" for spec in specs):
            raise UsageError(f"{where}: its `specs` must be a tuple with one MetricSpec for each number")
    return value


def _imported(path: Path) -> Any:
    # The name holds the path, so that two files of one name are two modules.
    name = f"coinbench_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--plugin {path}: not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickled data loaders look their module up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except FileNotFoundError as error:
        del sys.modules[name]
        raise UsageError(f"--plugin {path}: no such file ({error.filename})") from error
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"--plugin {path}: cannot be imported ({told(error, path)})") from error
    return module


def told(error: BaseException, *near: Path) -> str:
    """Return an exception in one line with the place in the files `near`, or where it was raised.

    Frames of coinbench and of installed libraries say little to whoever wrote a plug-in; its own do.
    """
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} in {Path(error.filename or '?').name}:{error.lineno}"
    frames, at = [], error.__traceback__
    while at is not None:
        frames.append((Path(at.tb_frame.f_code.co_filename), at.tb_lineno))
        at = at.tb_next
    inside = [frame for frame in frames if frame[0] in near] or [frame for frame in frames if _foreign(frame[0])]
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(": ")
    text = text if len(text) <= 300 else f"{text[:297]}..."
    return f"{text} in {inside[-1][0].name}:{inside[-1][1]}" if inside else text


def _foreign(path: Path) -> bool:
    """Tell whether a file is neither coinbench's nor a library's that coinbench uses."""
    own = Path(__file__).resolve().parent
    # The links methods/ and metrics/ lead out of the package folder of a checkout.
    roots = {own, *(link.resolve() for link in own.iterdir() if link.is_symlink())}
    parts = set(path.parts)
    libraries = {"torch", "numpy", "pandas", "pydantic", "scipy", "sklearn", "pyarrow", "jaxtyping", "beartype"}
    if str(path).startswith("<") or any(path.resolve().is_relative_to(root) for root in roots):
        return False
    return not (parts & libraries) and path.parent != Path(os.__file__).parent


def origin(point: EntryPoint) -> str:
    """Return package and version of an entry point."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an installed package"
