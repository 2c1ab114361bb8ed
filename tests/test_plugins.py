"""Plug-ins: files and installed packages are listed, checked, run and tabled; a wrong one is refused in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import plugin_files
import pytest
from commands import Cli, environment, in_process, one_line
from plugin_files import ROOT, dataset, method, metric

MAKE = {"method": method, "metric": metric, "data set": dataset}


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COINBENCH_CACHE", str(tmp_path / "cache"))
    return partial(in_process, capfd)


# Files


def test_what_a_file_declares_is_listed_described_and_resolved(cli: Cli, tmp_path: Path) -> None:
    files = [make(tmp_path) for make in MAKE.values()]
    given = [word for file in files for word in ("--plugin", file)]
    listed = json.loads(cli("ls", "methods", "--json", *given).out)
    assert listed["methods"]["pca"] == f"PCA (Pearson 1901) [{files[0]}]"
    for name, file in zip(("pca", "brightness", "stripes"), files, strict=True):
        assert f"from {file}" in cli("info", name, *given).out
    run = ("-m", "pca", "-d", "stripes", "--metrics", "mse,brightness")
    assert "stripes/pca seed 0" in cli("plan", *run, *given).out
    one_line(cli("plan", *run), 2, "unknown data set 'stripes'")
    one_line(cli("plan", "-m", "flint", "-d", "birds", "--metrics", "brightness"), 2, "unknown metric 'brightness'")


def test_a_configuration_says_which_plug_ins_it_needs(cli: Cli, tmp_path: Path) -> None:
    file = method(tmp_path)
    text = cli("run", "-m", "pca", "-d", "birds", "--plugin", file, "--dry-run").out
    assert json.loads(text)["plugins"] == {"method pca": str(file)}
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    one_line(cli("plan", "--config", "config.json"), 2, "needs the method 'pca'", f"--plugin {file}")
    assert cli("plan", "--config", "config.json", "--plugin", file).code == 0


WRONG = {
    "missing": (None, ["no such file"]),
    "no Python": ("x = = 1", ["cannot be imported", "SyntaxError", "wrong.py:1"]),
    "raises": ("x = 1\nraise RuntimeError('no luck')", ["RuntimeError: no luck in wrong.py:2"]),
    "declares nothing": ("x = 1", ["declares nothing", "COINBENCH = "]),
    "no such kind": ("COINBENCH = {'method': {}}", ["unknown kind in COINBENCH 'method'", "did you mean 'methods'"]),
    "wrong type": ("COINBENCH = {'methods': {'x': 3}}", ["COINBENCH['methods']['x'] is a int, expected a MethodSpec"]),
    "wrong class": ("COINBENCH = {'metrics': {'x': dict}}", ["the class dict, expected a subclass of Metric"]),
    "no specs": (
        "from coinbench import Metric\nclass M(Metric): pass\nCOINBENCH = {'metrics': {'x': M}}",
        ["`specs` must be a tuple with one MetricSpec"],
    ),
    "no name": (
        "from coinbench.methods.flint import METHOD\nCOINBENCH = {'methods': {'a b': METHOD}}",
        ["'a b' is no name"],
    ),
    "built in": (
        "from coinbench.methods.flint import METHOD\nCOINBENCH = {'methods': {'flint': METHOD}}",
        ["coinbench has a method 'flint' already; rename yours"],
    ),
}


@pytest.mark.parametrize(("text", "pieces"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_is_one_line_and_exit_2(cli: Cli, tmp_path: Path, text: str | None, pieces: list[str]) -> None:
    file = tmp_path / "wrong.py"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    one_line(cli("ls", "methods", "--plugin", file), 2, f"--plugin {file}: ", *pieces)


def test_two_files_cannot_have_one_name(cli: Cli, tmp_path: Path) -> None:
    first, second = method(tmp_path), method(tmp_path, "other")
    second.write_text(first.read_text(encoding="utf-8"), encoding="utf-8")
    one_line(cli("ls", "--plugin", first, "--plugin", second), 2, "has 'pca' among its methods too; rename one")
    assert cli("ls", "--plugin", first, "--plugin", first).code == 0


# Laws


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())
def test_what_the_documentation_shows_keeps_all_laws(cli: Cli, tmp_path: Path, make) -> None:
    ran = cli("check", "--plugin", make(tmp_path))
    assert (ran.code, ran.err) == (0, ""), ran
    assert "keeps all" in ran.out


def test_nothing_to_check_is_a_usage_error(cli: Cli) -> None:
    one_line(cli("check"), 2, "nothing named", "--plugin")
    one_line(cli("check", "flynt"), 2, "unknown name 'flynt'", "did you mean 'flint'")
    one_line(cli("check", "pathlib:Path"), 2, "check pathlib:Path: is a type, expected a MethodSpec")
    one_line(cli("check", "no_such_package:X"), 2, "cannot be imported", "No module named 'no_such_package'")
    one_line(cli("check", "mse", "--set", "data.size=16"), 2, "--set gives settings of a data set")


BROKEN = {
    "encode raises": ("method", {"encode": 'raise ValueError("no idea")'}, "ValueError: no idea in broken.py:"),
    "φ < 0": (
        "method",
        {"encode": "phi = -images[:, 0, 0].square(); return Concepts(phi.unsqueeze(2), phi)"},
        "phi [B, K, b]",
    ),
    "NaN": ("method", {"decode": "return concepts.phi.new_full((len(concepts), *self.shape), float('nan'))"}, "NaN"),
    "shape": ("method", {"predict": "return self.theta(concepts.pooled)[:, 1:]"}, "logits [B, Y] of shape [7, 2]"),
    "range": ("method", {"decode": "return 9 + self.pixels(concepts.pooled).unflatten(1, self.shape)"}, "[-1, 1]"),
    "batch": (
        "method",
        {"encode": "images = 0.5 * (images - images.mean(0))"},
        "phi is not the same for images 0 to 0 alone and in a batch of 7",
    ),
    "chance": (
        "method",
        {"decode": "return torch.rand(len(concepts), *self.shape) + 0 * concepts.pooled.sum()"},
        "decode gives another image for the same concepts",
    ),
    "memory": (
        "method",
        {"predict": "self.last = getattr(self, 'last', 0) + 1; return self.theta(concepts.pooled) + self.last"},
        "predict gives other logits",
    ),
    "input": ("method", {"encode": "images.mul_(0.5)"}, "encode changes the images it is given"),
    "f": (
        "method",
        {"fit": "next(problem.classifier.parameters()).mul_(0.5)"},
        "fit changed f, G or p; keep them frozen",
    ),
    "seed": ("method", {"build": "return PCA(config, problem)"}, "build gives other weights for the same rng"),
    "no gradient": ("method", {"predict": "return self.theta(concepts.pooled.detach())"}, "has no gradient"),
    "blind": ("method", {"decode": "return torch.zeros(len(concepts), *self.shape)"}, "the same without any concept"),
    "no CoIN": ("method", {"fit": "return build"}, "fit returned a function, expected a CoIN"),
    "metric raises": ("metric", {"update": 'raise KeyError("part")'}, "raised KeyError: 'part' in broken.py:"),
    "metric by chance": ("metric", {"records": "return {'value': np.random.rand(5)}"}, "measured again"),
    "batches": (
        "metric",
        {"records": "return {'value': np.array([part['value'].mean() for part in self.parts])}"},
        "one image at a time",
    ),
    "no scores": ("metric", {"score": "return None"}, "score returned None, expected a list of Score"),
    "bounds": ("metric", {"score": "return [BRIGHTNESS.score(7.0, n=4)]"}, "7 is not in its bounds [-2, 2]"),
    "n": ("metric", {"score": "return [BRIGHTNESS.score(0.0, n=0)]"}, "n is 0"),
    "columns": ("metric", {"records": "return {'a': np.zeros(2), 'b': np.zeros(3)}"}, "different lengths"),
    "records changed": ("metric", {"score": "records['value'][:] = 0"}, "score changes the column 'value'"),
    "pixels": ("data set", {"images": "return np.zeros((len(index), 1, size, size))"}, "expected uint8"),
    "order": (
        "data set",
        {"images": "index = np.sort(index)"},
        "an image depends on the order of the positions asked for",
    ),
    "images raise": ("data set", {"images": "raise OSError('gone')"}, "raised OSError: gone in broken.py:"),
}


@pytest.mark.parametrize(("kind", "lines", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_law_is_told_in_words(cli: Cli, tmp_path: Path, kind: str, lines: dict[str, str], words: str) -> None:
    ran = cli("check", "--plugin", MAKE[kind](tmp_path, "broken", **lines))
    assert ran.code == 1, ran
    assert any(line.startswith("  FAILED ") and words in line for line in ran.out.splitlines()), ran.out
    assert "Traceback" not in ran.out + ran.err


# Packages

_PACKAGE = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "my-plugins"
version = "2.5"

[project.entry-points."coinbench.metrics"]
brightness = "my_brightness:Brightness"
gone = "my_brightness:NoSuchThing"

[project.entry-points."coinbench.problems"]
stripes = "my_stripes:DATASET"

[tool.setuptools]
py-modules = ["my_brightness", "my_stripes"]
"""
_SMALL = {
    "problem.classifier.train.steps": 2,
    "problem.generator.net": "beta_vae",
    "problem.perceptual.net": "random",
    "problem.generator.train.steps": 2,
    "problem.classifier.width": 4,
    "problem.generator.width": 4,
    "evaluation.bootstrap": 100,
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example package and one with a metric and a data set, installed by pip into site/."""
    folder = tmp_path_factory.mktemp("packages")
    shutil.copytree(plugin_files.EXAMPLE, folder / "pca")
    (folder / "mine").mkdir()
    (folder / "mine" / "pyproject.toml").write_text(_PACKAGE, encoding="utf-8")
    (folder / "mine" / "my_brightness.py").write_text(plugin_files.METRIC, encoding="utf-8")
    (folder / "mine" / "my_stripes.py").write_text(plugin_files.DATASET, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    command = [*pip, "--target", str(folder / "site"), str(folder / "pca"), str(folder / "mine")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


def elsewhere(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m ...` in another process that has the installed packages."""
    paths = {"PYTHONPATH": f"{folder / 'site'}:{ROOT}"}
    command = [sys.executable, "-m", *(str(word) for word in words)]
    return subprocess.run(
        command, cwd=folder, env=environment(folder / "cache") | paths, capture_output=True, text=True, timeout=900
    )


@pytest.mark.slow
def test_packages_are_listed_checked_run_and_tabled_without_a_change_to_the_core(installed: Path) -> None:
    listed = elsewhere(installed, "coinbench", "ls")
    assert listed.returncode == 0, listed.stderr
    for line in (
        "  pca            PCA (Pearson 1901) [coinbench-pca 0.1.0]",
        "  brightness     brightness [my-plugins 2.5]",
        "  stripes        stripes, drawn [my-plugins 2.5]",
        "  gone           cannot be used: metric 'gone' of my-plugins 2.5: cannot be imported",
    ):
        assert line in listed.stdout
    checked = elsewhere(installed, "coinbench", "check", "pca", "brightness", "my_stripes:DATASET")
    assert (checked.returncode, checked.stdout.count("keeps all")) == (0, 3), checked
    sets = [word for key, value in _SMALL.items() for word in ("--set", f"{key}={value}")]
    run = ("run", "-m", "pca", "-d", "stripes", "--metrics", "accuracy,brightness", *sets, "--out", "out", "--quiet")
    ran = elsewhere(installed, "coinbench", *run)
    assert ran.returncode == 0, ran
    table = (installed / "out" / "tables" / "others.md").read_text(encoding="utf-8")
    assert "BRIGHTNESS" in table.upper()
    assert "PCA" in table
    assert "mean over pixels and channels of x̃ − x" in table
    assert "**Other metrics**" in ran.stdout
    assert json.loads((installed / "out" / "config.json").read_text())["plugins"] == {
        "data set stripes": "my-plugins 2.5",
        "method pca": "coinbench-pca 0.1.0",
        "metric brightness": "my-plugins 2.5",
    }
    assert elsewhere(installed, "coinbench", "score", "out").returncode == 0


@pytest.mark.slow
def test_the_fixture_passes_and_fails_in_words(installed: Path) -> None:
    broken = plugin_files.method(installed / "site", "broken", encode='raise ValueError("no idea")')
    test = installed / "pca" / "tests" / "test_broken.py"
    test.write_text('def test_it(conformance):\n    conformance("broken:METHOD")\n', encoding="utf-8")
    # By name, since an older installation of the checkout does not have the entry point.
    plugin = ("-p", "no:coinbench", "-p", "coinbench.testing")
    ran = elsewhere(installed, "pytest", "-q", *plugin, "--rootdir", installed / "pca", installed / "pca" / "tests")
    assert ran.returncode == 1, ran
    assert "1 failed, 1 passed" in ran.stdout
    line = broken.read_text(encoding="utf-8").splitlines().index('        raise ValueError("no idea")') + 1
    assert f"encode raised ValueError: no idea in broken.py:{line}" in ran.stdout
    assert "Traceback" not in ran.stdout


def test_the_entry_point_of_the_fixture_names_a_module() -> None:
    import tomllib

    from coinbench import testing

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"coinbench": testing.__name__}
    assert callable(testing.conformance)
