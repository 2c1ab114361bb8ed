"""Every failure that a user can cause is one line with the documented exit code and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml
from commands import Cli, files, in_process, one_line, sets, subprocess_run
from filelock import FileLock

from coinbench.registry import CLASSIFIERS, GENERATORS, METHODS, METRICS, PROBLEMS

RUN = ("run", "--methods", "viscoin", "--dataset", "birds")
GROUPS = ("data", "data verify", "data card", "weights", "weights convert", "weights show")
COMMANDS = ("run", "plan", "ls", "info", "doctor", "gate", "score", "report", "compare", "worker", *GROUPS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; the cache would be made inside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COINBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COINBENCH_TRACEBACK", raising=False)
    # What should be refused must not train for minutes where it is not.
    monkeypatch.setattr("coinbench.executors.local.LocalExecutor.run", _must_not_run)
    return tmp_path


def _must_not_run(*_: object) -> None:
    pytest.fail("cells were run")


@pytest.fixture
def cli(folder: Path, capfd: pytest.CaptureFixture[str]) -> Cli:
    return partial(in_process, capfd)


WRONG = {
    "command": (("rnu",), ["rnu"]),
    "flag": ((*RUN, "--gamma", "1"), ["--gamma"]),
    "flag without value": ((*RUN, "--seeds"), ["--seeds"]),
    "surplus argument": ((*RUN, "more"), ["more"]),
    "no data set": (("run", "--methods", "viscoin"), ["no data set given", "birds"]),
    "no method": (("run", "--dataset", "birds"), ["no method given", "flint"]),
    "method": (("run", "-m", "viscion", "-d", "birds"), ["unknown method 'viscion'", "did you mean 'viscoin'"]),
    "method twice": (("run", "-m", "flint,flint", "-d", "birds"), ["given twice"]),
    "data set": (("run", "-m", "viscoin", "-d", "brids"), ["unknown data set 'brids'", "did you mean 'birds'"]),
    "metric": ((*RUN, "--metrics", "acuracy"), ["unknown metric 'acuracy'", "did you mean 'accuracy'"]),
    "generator": (
        (*RUN, "--set", "problem.generator.net=betavae"),
        ["unknown generator 'betavae'", "did you mean 'beta_vae'"],
    ),
    "part": ((*RUN, "--set", "metod.gamma=1"), ["unknown key 'metod'", "did you mean", "method"]),
    "key of a method": ((*RUN, "--set", "method.gama=1"), ["unknown key method. 'gama'", "did you mean 'gamma'"]),
    "key of data": ((*RUN, "--set", "data.sice=64"), ["'sice'", "did you mean 'size'"]),
    "deep key": ((*RUN, "--set", "problem.generator.train.step=1"), ["'step'", "did you mean 'steps'"]),
    "key of a value": ((*RUN, "--set", "data.size.x=1"), ["data.size", "has no keys"]),
    "part as value": ((*RUN, "--set", "method.train=3"), ["method", "train", "keys of its own"]),
    "methods as value": ((*RUN, "--set", "method=3"), ["--set method=...", "name a field"]),
    "name of the data": ((*RUN, "--set", "data.name=digits"), ["data.name", "--dataset"]),
    "name of a method": ((*RUN, "--set", "method.name=flint"), ["method.name", "--methods"]),
    "type": ((*RUN, "--set", "data.size=large"), ["data.size", "integer", "'large'"]),
    "empty value": ((*RUN, "--set", "data.size="), ["data.size"]),
    "range": ((*RUN, "--set", "method.gamma=-1"), ["viscoin.gamma", "greater than or equal to 0", "-1"]),
    "not a number": ((*RUN, "--set", "method.train.lr=.nan"), ["train.lr"]),
    "choice": ((*RUN, "--set", "method.train.precision=fp8"), ["train.precision", "'fp32'", "'fp8'"]),
    "list": ((*RUN, "--set", "evaluation.taus=[]"), ["evaluation.taus", "one or more"]),
    "two fields": ((*RUN, "--set", "data.train_size=16"), ["data.train_size", "at least size = 32"]),
    "no equals": ((*RUN, "--set", "method.gamma"), ["--set 'method.gamma'", "path=value"]),
    "no path": ((*RUN, "--set", "=3"), ["--set '=3'", "path=value"]),
    "double dot": ((*RUN, "--set", "method..gamma=3"), ["path=value"]),
    "not YAML": ((*RUN, "--set", "method.gamma=[1"), ["method.gamma=[1", "not readable"]),
    "seeds x": ((*RUN, "--seeds", "x"), ["--seeds 'x'", "0:3"]),
    "seeds 1:": ((*RUN, "--seeds", "1:"), ["--seeds '1:'", "0:3"]),
    "seeds -1": ((*RUN, "--seeds=-1"), ["--seeds '-1'", "0:3"]),
    "seeds 1.5": ((*RUN, "--seeds", "1.5"), ["--seeds '1.5'"]),
    "seeds 0,0": ((*RUN, "--seeds", "0,0"), ["--seeds '0,0'", "once"]),
    "seeds 3:1": ((*RUN, "--seeds", "3:1"), ["--seeds '3:1'"]),
    "seeds 0:": ((*RUN, "--seeds", "0:3,"), ["--seeds '0:3,'"]),
    "seeds empty": ((*RUN, "--seeds", ""), ["--seeds ''"]),
    "seeds too many": ((*RUN, "--seeds", "0:99999999999"), ["more than 10,000 seeds"]),
    "config missing": (("run", "--config", "none.yaml"), ["--config none.yaml", "no such file"]),
    "variant without colon": ((*RUN, "--variant", "wide"), ["--variant 'wide'", "NAME:path=value"]),
    "variant without name": ((*RUN, "--variant", ":method.gamma=1"), ["--variant", "NAME:path=value"]),
    "variant twice": ((*RUN, "--variant", "a:method.gamma=1", "--variant", "a:method.gamma=2"), ["each name once"]),
    "variant key": ((*RUN, "--variant", "a:method.gama=1"), ["'gama'", "did you mean 'gamma'"]),
    "jobs 0": ((*RUN, "--jobs", "0"), ["--jobs", "greater than or equal to 1"]),
    "jobs x": ((*RUN, "--jobs", "x"), ["--jobs", "integer"]),
    "limit 0": ((*RUN, "--limit", "0"), ["--limit", "greater than or equal to 1"]),
    "device": ((*RUN, "--device", "nonsense"), ["--device nonsense"]),
    "device that holds nothing": ((*RUN, "--device", "meta"), ["--device meta"]),
    "device number": ((*RUN, "--device", "cuda:99"), ["--device cuda:99"]),
    "force": ((*RUN, "--force", "flint"), ["unknown method of this run 'flint'", "viscoin"]),
    "imagefolder without root": (("run", "-m", "flint", "-d", "imagefolder"), ["data.root", "--set data.root="]),
    "plan": (("plan", "-m", "viscion", "-d", "birds"), ["did you mean 'viscoin'"]),
    "ls": (("ls", "metod"), ["unknown kind 'metod'", "methods"]),
    "info": (("info", "viscion"), ["unknown name 'viscion'", "viscoin"]),
    "info without name": (("info",), ["name"]),
    "verify": (("data", "verify", "brids"), ["unknown data set 'brids'", "birds"]),
    "verify key": (("data", "verify", "birds", "--set", "data.sice=1"), ["'sice'", "'size'"]),
    "verify imagefolder": (("data", "verify", "imagefolder"), ["data.root"]),
    "card": (("data", "card", "brids"), ["unknown data set 'brids'"]),
    "bootstrap": (("score", "there", "--bootstrap", "5"), ["--bootstrap", "100"]),
    "metric to score": (("score", "there", "--metrics", "acuracy"), ["did you mean 'accuracy'"]),
}


@pytest.mark.parametrize(("words", "pieces"), WRONG.values(), ids=WRONG.keys())
def test_a_usage_error_is_one_line_and_exit_2(
    cli: Cli, folder: Path, words: tuple[str, ...], pieces: list[str]
) -> None:
    one_line(cli(*words), 2, *pieces)
    assert list(folder.iterdir()) == []


MISSING = {
    "root": (("run", "-m", "flint", "-d", "imagefolder", "--set", "data.root=nowhere"), ["data.root", "nowhere"]),
    "root of plan": (("plan", "-m", "flint", "-d", "imagefolder", "--set", "data.root=nowhere"), ["nowhere"]),
    "root to verify": (("data", "verify", "imagefolder", "--set", "data.root=nowhere"), ["nowhere"]),
    "results to report": (("report", "nowhere"), ["nowhere", "no results.parquet", "--out"]),
    "results to score": (("score", "nowhere"), ["nowhere", "no results.parquet", "--out"]),
}


@pytest.mark.parametrize(("words", "pieces"), MISSING.values(), ids=MISSING.keys())
def test_missing_data_is_one_line_and_exit_4(cli: Cli, folder: Path, words: tuple[str, ...], pieces: list[str]) -> None:
    one_line(cli(*words), 4, *pieces)
    assert not [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


CONFIGS = {
    "not YAML": ("a: [1", ["not readable as YAML"]),
    "a list": ("[1, 2]", ["expected a mapping", "list"]),
    "empty": ("", ["expected a mapping"]),
    "unknown key": ("methods: flint\ndataset: birds\nsede: 1", ["unknown key 'sede'", "did you mean", "'seeds'"]),
    "unknown deep key": ("methods: flint\ndataset: birds\nevaluation: {tau: 1}", ["'tau'", "did you mean 'taus'"]),
    "wrong type": ("methods: flint\ndataset: birds\ndata: {size: big}", ["data.size", "'big'"]),
    "seeds": ("methods: flint\ndataset: birds\nseeds: -3", ["--seeds '-3'"]),
    "set is no list": ("methods: flint\ndataset: birds\nset: data.size=9", ["set must be a list"]),
    "methods is a mapping": ("methods: {flint: 1}\ndataset: birds", ["method"]),
    "part is a value": ("methods: flint\ndataset: birds\ndata: 3", ["data"]),
    "not text": (b"\xff\xfe\x00", ["not readable"]),
    "broken config.json": ('{"experiments": {"birds": 3}}', ["experiments"]),
}


@pytest.mark.parametrize(("text", "pieces"), CONFIGS.values(), ids=CONFIGS.keys())
def test_a_wrong_configuration_file(cli: Cli, folder: Path, text: str | bytes, pieces: list[str]) -> None:
    path = folder / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    one_line(cli("run", "--config", path), 2, *pieces)
    assert [p.name for p in folder.iterdir()] == ["c.yaml"]


def test_a_folder_as_configuration(cli: Cli, folder: Path) -> None:
    one_line(cli("run", "--config", folder), 2, "not readable")


def test_a_resolved_configuration_takes_no_settings(cli: Cli, folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(cli(*RUN, "--dry-run").out)
    one_line(cli("run", "--config", path, "--set", "method.gamma=1"), 2, "only --seeds and --metrics")
    same = cli("run", "--config", path, "--seeds", "4", "--dry-run")
    assert json.loads(same.out) == json.loads(path.read_text()) | {"seeds": [4]}


@pytest.mark.parametrize("below", [".", "deeper"])
def test_a_file_where_the_output_folder_should_be(cli: Cli, folder: Path, below: str) -> None:
    (folder / "taken").write_text("mine")
    one_line(cli(*RUN, "--out", folder / "taken" / below), 1, "taken", "cannot be written", "--out")
    assert files(folder) == {"taken": b"mine"}


def test_an_output_folder_that_cannot_be_made(cli: Cli, folder: Path) -> None:
    # Permission bits do not bind an administrator; the length of a name binds everyone.
    one_line(cli(*RUN, "--out", folder / ("x" * 300)), 1, "cannot be written", "--out")
    assert files(folder) == {}


def test_an_output_folder_of_another_configuration(cli: Cli, folder: Path) -> None:
    out = folder / "out"
    out.mkdir()
    (out / "config.json").write_text(cli(*RUN, "--dry-run").out)
    before = files(out)
    one_line(cli(*RUN, "--out", out, "--set", "method.gamma=9"), 2, "other settings", "choose another --out")
    one_line(cli(*RUN, "--out", out, "--set", "data.n_test=50"), 2, "other settings", "config.json")
    assert files(out) == before


@pytest.mark.parametrize("text", ["{", '{"a": 1}'])
def test_an_output_folder_with_a_broken_configuration(cli: Cli, folder: Path, text: str) -> None:
    out = folder / "out"
    out.mkdir()
    (out / "config.json").write_text(text)
    ran = cli(*RUN, "--out", out)
    one_line(ran, ran.code, "config.json")
    assert ran.code in (1, 2)
    assert files(out) == {"config.json": text.encode()}


def test_an_output_folder_in_use(cli: Cli, folder: Path) -> None:
    out = folder / "out"
    out.mkdir()
    with FileLock(out / ".lock"):
        one_line(cli(*RUN, "--out", out), 2, "another run is using this folder")
        one_line(cli(*RUN, "--out", out, "--force", "viscoin"), 2, "another run is using this folder")
    assert files(out) == {}


def test_a_file_where_the_cache_should_be(cli: Cli, folder: Path) -> None:
    (folder / "taken").write_text("mine")
    one_line(cli(*RUN, "--cache", folder / "taken"), 1, "taken", "cache", "--cache DIR")
    assert files(folder) == {"taken": b"mine"}


@pytest.mark.parametrize("command", [(), *(tuple(name.split()) for name in COMMANDS)], ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(cli: Cli, command: tuple[str, ...], flag: str) -> None:
    ran = cli(*command, flag)
    assert ran.code == 0
    assert ran.err == ""
    assert " ".join(("Usage: coinbench", *command)) in ran.out


def test_no_command_prints_the_help(cli: Cli) -> None:
    ran = cli()
    assert ran.code == 2
    assert "Usage: coinbench" in ran.out + ran.err


def test_help_names_every_command(cli: Cli) -> None:
    listed = cli("--help").out
    assert all(f"\n  {name} " in listed for name in COMMANDS if " " not in name and name != "worker")
    assert "\n  worker" not in listed


@pytest.mark.parametrize(
    "words", [("--help",), ("run", "--help"), ("data", "--help"), ("weights", "convert", "--help")], ids=" ".join
)
def test_help_imports_nothing_heavy(folder: Path, words: tuple[str, ...]) -> None:
    code = (
        f"import sys; sys.argv = ['coinbench', *{words!r}]\n"
        "from coinbench.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'torchvision', 'pandas', 'numpy', 'sklearn', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_failures_in_a_process_of_their_own(folder: Path) -> None:
    one_line(subprocess_run(folder, "run", "-m", "viscion", "-d", "birds"), 2, "did you mean 'viscoin'")
    one_line(subprocess_run(folder, "report", "nowhere"), 4, "no results.parquet")
    assert list(folder.iterdir()) == []


def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    line = f"'{sys.executable}' -m coinbench info viscoin | true"
    ran = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60)
    assert ran.stderr == ""


def test_an_internal_error_is_one_line_too(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(kind: str | None) -> None:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr("coinbench.catalogue.listing", fail)
    ran = cli("ls")
    assert ran.code == 1
    assert ran.err == "coinbench: internal error: ZeroDivisionError: a b (COINBENCH_TRACEBACK=1 shows where)\n"
    monkeypatch.setenv("COINBENCH_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        cli("ls")


@pytest.mark.parametrize("error", [KeyboardInterrupt()])
def test_an_interrupt_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def stop(kind: str | None) -> None:
        raise error

    monkeypatch.setattr("coinbench.catalogue.listing", stop)
    one_line(cli("ls"), 130, "interrupted", "the same command resumes")


def test_ls(cli: Cli) -> None:
    ran = cli("ls", "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    registries = {
        "methods": METHODS,
        "datasets": PROBLEMS,
        "metrics": METRICS,
        "classifiers": CLASSIFIERS,
        "generators": GENERATORS,
    }
    assert {kind: list(rows) for kind, rows in found.items()} == {k: r.names() for k, r in registries.items()}
    plain = cli("ls", "metrics").out
    assert plain.splitlines()[0] == "metrics"
    assert len(plain.splitlines()) == 1 + len(METRICS.names())


@pytest.mark.parametrize(
    "name", [name for registry in (METHODS, PROBLEMS, METRICS, CLASSIFIERS, GENERATORS) for name in registry.names()]
)
def test_info_of_everything(cli: Cli, name: str) -> None:
    ran = cli("info", name)
    assert (ran.code, ran.err) == (0, "")
    assert name in ran.out.splitlines()[0]
    if name in METHODS.names():
        assert "settings:" in ran.out
        assert "  train: steps" in ran.out


def test_info_shows_ranges_and_protocol(cli: Cli) -> None:
    assert "gamma = 0.1 [>= 0]" in cli("info", "viscoin").out
    for name in METRICS.names():
        card = cli("info", name).out
        numbers = len(METRICS.load(name).specs)
        for line in ("formula", "source", "protocol", "bounds", "direction", "oracle", "null", "cost"):
            assert card.count(f"\n  {line}: ") == numbers, (name, line)
    assert "\nmeasured by default" in cli("info", "faithfulness").out
    assert "coinbench weights fetch inception" in cli("info", "visualisation_fid").out
    problem = cli("info", "problem").out
    assert "  generator.seed = 0 [>= 0]" in problem
    assert "  classifier.train: " in problem
    assert "  problem.classifier.resolution = 32 [>= 4, <= 1024]" in cli("info", "resnet").out
    assert "  bootstrap = 1000 [>= 100]" in cli("info", "evaluation").out
    assert "  lr = 0.0001 [> 0]" in cli("info", "train").out


def test_plan(cli: Cli, folder: Path) -> None:
    words = ("-m", "viscoin,flint", "-d", "birds", "-s", "0:2", "--no-measure")
    words = (*words, "--variant", "a:method.K=4", "--variant", "b:")
    ran = cli("plan", *words, "--json")
    assert (ran.code, ran.err) == (0, "")
    rows = json.loads(ran.out)["cells"]
    assert len(rows) == 8 == len({row["cell"] for row in rows})
    assert rows[0]["label"] == "birds/viscoin [a] seed 0"
    assert {row["evaluate"] for row in rows} == {"to do"}
    assert not {row["fit"] for row in rows} & {"done", "cached", "begun"}
    text = cli("plan", *words).out
    assert text.splitlines()[-1].startswith("8 cells, 8 t")
    assert list(folder.iterdir()) == []


def test_the_dry_run_is_a_configuration(cli: Cli, folder: Path) -> None:
    ran = cli("run", "-m", "viscoin,flint", "-d", "birds", *sets(), "--limit", "7", "--dry-run")
    assert (ran.code, ran.err) == (0, "")
    config = json.loads(ran.out)
    experiment = config["experiments"]["birds"]["default"]
    assert experiment["data"]["n_train"] == 240
    assert [method["K"] for method in experiment["methods"].values()] == [6, 6]
    assert experiment["evaluation"]["limit"] == 7
    plain = [name for name in METRICS.names() if not (METRICS.load(name).needs or METRICS.load(name).on_request)]
    assert config["metrics"] == plain
    assert list(folder.iterdir()) == []
    (folder / "config.json").write_text(ran.out)
    assert cli("run", "--config", folder / "config.json", "--dry-run").out == ran.out


def test_a_file_says_what_flags_say(cli: Cli, folder: Path) -> None:
    tree = {
        "methods": ["viscoin", "flint"],
        "dataset": "birds",
        "seeds": "0:2",
        "metrics": ["accuracy"],
        "method": {"train": {"lr": 0.01}},
        "set": ["data.size=64"],
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(tree))
    flags = ("-m", "viscoin,flint", "-d", "birds", "-s", "0:2", "--metrics", "accuracy")
    given = cli("run", *flags, "--set", "method.train.lr=1e-2", "--set", "data.size=64", "--dry-run")
    assert cli("run", "--config", folder / "c.yaml", "--dry-run").out == given.out
    over = cli("run", "--config", folder / "c.yaml", "-s", "5", "--set", "data.size=32", "--dry-run")
    assert json.loads(over.out)["seeds"] == [5]
    assert json.loads(over.out)["experiments"]["birds"]["default"]["data"]["size"] == 32


def test_verify_and_card_of_the_embedded_data_sets(cli: Cli) -> None:
    ran = cli("data", "verify", "birds", "--set", "data.n_train=20", "--set", "data.n_test=10")
    assert (ran.code, ran.err) == (0, "")
    assert "birds: fingerprint" in ran.out
    assert "test 10" in ran.out
    card = cli("data", "card", "birds", "--set", "data.n_train=20", "--set", "data.n_test=10")
    assert (card.code, card.err) == (0, "")
    assert card.out.startswith("# Birds")
