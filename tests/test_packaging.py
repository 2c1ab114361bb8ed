"""Links, package list, wheel, sizes, imports: what holds the repository together."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("methods", "metrics", "reports")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def sources() -> list[Path]:
    """Python files of the package, of its tests and of its benchmarks."""
    folders = (ROOT / name for name in ("coinbench", *LINKED, "tests", "benchmarks"))
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def package_files() -> set[str]:
    """Path in the package -> what a wheel must hold, from the checkout alone."""
    found = {
        "coinbench/" + path.relative_to(ROOT / "coinbench").as_posix()
        for path in (ROOT / "coinbench").rglob("*.py")
        if not any((ROOT / "coinbench" / part).is_symlink() for part in path.relative_to(ROOT / "coinbench").parts[:1])
    }
    found |= {
        f"coinbench/{path.relative_to(ROOT).as_posix()}" for name in LINKED for path in (ROOT / name).rglob("*.py")
    }
    templates = (ROOT / "reports" / "templates").iterdir()
    found |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "coinbench" / "assets").glob("*/*")}
    found |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "coinbench" / "published").glob("*.yaml")}
    return found | {"coinbench/py.typed"} | {f"coinbench/reports/templates/{path.name}" for path in templates}


@pytest.mark.parametrize("name", LINKED)
def test_the_links_are_relative_and_point_to_their_folders(name: str) -> None:
    link = ROOT / "coinbench" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert (link / "__init__.py").is_file()


def test_the_package_list_is_that_of_the_folders() -> None:
    folders = {path.parent for path in (ROOT / "coinbench").rglob("__init__.py")}
    folders |= {(ROOT / name) for name in LINKED}
    names = {
        ".".join(path.relative_to(ROOT).parts) if path.is_relative_to(ROOT / "coinbench") else f"coinbench.{path.name}"
        for path in folders
    }
    table = project()["tool"]["setuptools"]
    assert table["packages"] == sorted(names)
    assert table["package-dir"] == {"coinbench": "coinbench"} | {f"coinbench.{name}": name for name in LINKED}
    for name in LINKED:
        assert not [path for path in (ROOT / name).rglob("__init__.py") if path.parent != ROOT / name]


def test_no_file_is_longer_than_four_hundred_lines_and_the_story_fits_130() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert len(lengths) > 50
    assert not {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > 400}
    assert lengths[ROOT / "coinbench" / "run.py"] < 130


def test_every_dependency_is_imported_and_every_import_is_declared() -> None:
    distributions = importlib.metadata.packages_distributions()
    extras = project()["project"]["optional-dependencies"].values()
    declared = {
        text.split(">")[0].split("~")[0].split("[")[0].lower().replace("_", "-")
        for texts in (project()["project"]["dependencies"], *extras)
        for text in texts
    }
    used: set[str] = set()
    # Only pytest loads the fixture of coinbench/testing.py.
    ours = (p for p in sources() if not {"tests", "benchmarks", "testing.py"} & set(p.parts))
    for path in ours:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            used |= {module.partition(".")[0] for module in modules}
    foreign = {name for name in used if name not in sys.stdlib_module_names and name != "coinbench"}
    for name in foreign:
        owners = {owner.lower().replace("_", "-") for owner in distributions.get(name, [])}
        assert owners & declared, f"{name} is imported and not declared"


_IMPORTS = """
import runpy, sys
sys.argv = ["coinbench", *sys.argv[1:]]
try:
    {statement}
except SystemExit as end:
    assert end.code in (0, None), end.code
found = [name for name in ("torch", "pandas", "torchvision", "sklearn", "matplotlib") if name in sys.modules]
sys.exit(f"imported {{found}}" if found else 0)
"""


@pytest.mark.parametrize(
    "statement",
    [
        'runpy.run_module("coinbench", run_name="__main__")',
        "import coinbench.reports",
        "import coinbench.plan, coinbench.results, coinbench.records, coinbench.registry",
    ],
    ids=["--help", "reports", "core"],
)
def test_what_must_be_quick_imports_nothing_heavy(statement: str) -> None:
    script = _IMPORTS.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ("Usage" in done.stdout) is ("run_module" in statement)


def test_the_version_is_that_of_the_project() -> None:
    assert importlib.metadata.version("coinbench") == project()["project"]["version"]


def _setuptools() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in importlib.metadata.version("setuptools").split(".")[:1])
    except importlib.metadata.PackageNotFoundError:
        return (0,)


@pytest.mark.slow
@pytest.mark.skipif(_setuptools() < (77,), reason="building without isolation needs setuptools >= 77 installed")
def test_the_wheel_holds_what_the_checkout_holds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == package_files()
