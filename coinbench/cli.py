"""The command line: thin. Parses, calls, prints results to stdout and everything else to stderr, sets the exit code."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from typer._click.exceptions import ClickException, NoArgsIsHelpError

from coinbench.cli_audit import audit
from coinbench.cli_check import check
from coinbench.cli_doctor import doctor
from coinbench.cli_gate import gate
from coinbench.cli_info import Offline, data_app, info, ls
from coinbench.cli_options import (
    AsJson,
    AutoBatch,
    CacheRoot,
    ConfigFile,
    Datasets,
    Device,
    Devices,
    Jobs,
    Limit,
    Methods,
    Metrics,
    Out,
    Plugins,
    Quiet,
    Seeds,
    Sets,
    Variants,
    cache_of,
    out_of,
    request,
)
from coinbench.cli_plan import plan, trial
from coinbench.cli_pretrain import pretrain
from coinbench.cli_published import ablate, repro, table
from coinbench.cli_weights import weights_app
from coinbench.errors import CoinbenchError, UsageError, refused

app = typer.Typer(
    help="Evaluate and benchmark concept-based interpretable networks (CoINs).",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(ls)
app.command()(info)
app.command()(check)
app.command()(audit)
app.command()(pretrain)
app.command()(doctor)
app.command()(gate)
app.command()(plan)
app.command(hidden=True)(trial)
app.command()(table)
app.command()(repro)
app.command()(ablate)
app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")

_INTERRUPTED = "interrupted; the same command resumes"


@app.command()
def run(
    methods: Methods = None,
    dataset: Datasets = None,
    seeds: Seeds = None,
    metrics: Metrics = None,
    sets: Sets = None,
    variant: Variants = None,
    config: ConfigFile = None,
    limit: Limit = None,
    plugin: Plugins = None,
    out: Out = None,
    cache: CacheRoot = None,
    device: Device = "auto",
    devices: Devices = 1,
    auto_batch: AutoBatch = False,
    jobs: Jobs = 1,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also log to TensorBoard.")] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failed cell.")] = False,
    force: Annotated[str | None, typer.Option("--force", help="Methods to train anew.")] = None,
    offline: Offline = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train and evaluate methods on data sets; write tables, figures and a report. The same command resumes."""
    resolved = request(
        methods=methods,
        datasets=dataset,
        seeds=seeds,
        metrics=metrics,
        sets=sets,
        variants=variant,
        config=config,
        limit=limit,
    )
    if dry_run:
        print(json.dumps(resolved.model_dump(mode="json"), indent=2))
        return
    from coinbench.executors.local import LocalExecutor
    from coinbench.group import launched
    from coinbench.plan import names
    from coinbench.progress import Display
    from coinbench.run import check_methods, run
    from coinbench.summary import as_json as to_json
    from coinbench.summary import as_text
    from coinbench.work import check_device, check_devices

    if auto_batch and max(devices, launched()) > 1:
        raise UsageError("--auto-batch: works on one device; lower train.batch and raise train.accumulate instead")
    if devices > 1 and launched() == 1:
        check_devices(device, devices)
    check_device(device)
    place = out_of(out, resolved)
    shared = cache_of(cache)
    forced = names(force)
    check_methods(forced, resolved)
    shared.check_writable()
    if launched() > 1:
        from coinbench.executors.group import GroupExecutor

        executor = GroupExecutor(shared, device, devices, jobs, tensorboard)
        if not executor.leads:
            with executor.stopped_by_signals():
                executor.follow()
            return
    else:
        executor = LocalExecutor(jobs, shared.root, device, devices, tensorboard, auto_batch, fail_fast)
    with executor.stopped_by_signals(), Display(quiet) as display:
        finished = run(resolved, place, shared, executor, display, forced)
    print(to_json(finished) if as_json else as_text(finished))
    raise typer.Exit(finished.exit_code)


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    metrics: Metrics = None,
    bootstrap: Annotated[int | None, typer.Option("--bootstrap", min=100, help="Resamples per interval.")] = None,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Compute numbers anew from the stored records of a run, without any model."""
    from coinbench.scoring import rescore
    from coinbench.summary import folder_json, folder_text

    rescore(folder.absolute(), metrics, bootstrap)
    print(folder_json(folder.absolute()) if as_json else folder_text(folder.absolute()))


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Output folder of a run.")], as_json: AsJson = False) -> None:
    """Write tables, figures and report.html of a run anew from its results and images."""
    from coinbench import reports, results
    from coinbench.outfolder import locked
    from coinbench.summary import folder_json, folder_text

    results.find(folder.absolute())
    with locked(folder.absolute()):
        reports.report(folder.absolute())
    print(folder_json(folder.absolute()) if as_json else folder_text(folder.absolute()))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    b: Annotated[Path, typer.Argument(help="Output folder of another.")],
    metrics: Annotated[str | None, typer.Option("--metrics", help="Rows, as mse,fd_f (default: all).")] = None,
    method: Annotated[str | None, typer.Option("--method", "-m", help="Methods (default: all).")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print equal rows too.")] = False,
    paired: Annotated[bool, typer.Option("--paired", help="Test the differences, on the same images.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which numbers of two runs are equal, which differ, and which only one of them holds."""
    from coinbench.plan import names
    from coinbench.reports import comparison

    found = comparison.compare(a, b, names(metrics), names(method))
    if paired:
        from coinbench.reports import paired as tests

        told = tests.pair(found, a, b)
        print(tests.as_json(told, found, a, b) if as_json else tests.as_text(told, found, a, b))
        return
    print(comparison.as_json(found, a, b) if as_json else comparison.as_text(found, a, b, everything))


@app.command(hidden=True)
def worker(
    path: Annotated[Path, typer.Argument(help="Cell, as JSON.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where its results go.")],
    cache: CacheRoot = None,
    device: Device = "auto",
    devices: Devices = 1,
    threads: Annotated[int | None, typer.Option("--threads", min=1)] = None,
    events: Annotated[bool, typer.Option("--events", help="Progress as JSON lines on stdout.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard")] = False,
    auto_batch: AutoBatch = False,
) -> None:
    """Bring one cell to its end: what every executor runs."""
    from coinbench.worker import serve

    serve(path, folder.absolute(), cache_of(cache), device, devices, threads, events, tensorboard, auto_batch)


def main() -> None:
    """Run the command line; every failure is one line on stderr and the documented exit code."""
    if sys.getfilesystemencoding() != "utf-8":
        # An ASCII locale: names of files would reach Arrow, safetensors and JSON as what is no text.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", "-m", "coinbench", *sys.argv[1:]])
    code = 1
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Closed by the caller: else the next file that is opened takes its place and receives what is printed.
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that is not UTF-8 shows τ as \u03c4 instead of ending the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _command()
        if code == 130:
            # Typer turns an interrupt into this code without a word, as a run does whose cells were cut.
            _complain(_INTERRUPTED)
    except NoArgsIsHelpError as error:
        print(error.format_message())
        code = 2
    except ClickException as error:
        _complain(error.format_message().replace("\n", " "))
        code = 2
    except CoinbenchError as error:
        _complain(str(error))
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _complain(_INTERRUPTED)
        code = 130
    except BrokenPipeError:
        # Whoever read our output has gone; nothing is left to say.
        _abandon_stdout()
        code = 141
    except Exception as error:
        if os.environ.get("COINBENCH_TRACEBACK"):
            raise
        if known := refused(error, "standard output"):
            _complain(str(known))
            _abandon_stdout()
        else:
            _complain(f"internal error: {type(error).__name__}: {error} (COINBENCH_TRACEBACK=1 shows where)")
    sys.exit(code)


def _command() -> int:
    """Run the command and hand over all that it printed."""
    for word in sys.argv[1:]:
        if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UsageError(f"{word!a}: not UTF-8; rename the file or folder")
    try:
        code = app(prog_name="coinbench", standalone_mode=False) or 0
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            # Typer ends the process with 1 and without a word.
            raise error.__context__ from None
        raise
    sys.stdout.flush()
    return code


def _abandon_stdout() -> None:
    # What could not be written is still in the buffer; Python must not complain of it at exit.
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_LONGEST = 1000
"""Characters of a message; it may quote a name or a value of any length."""


def _complain(message: str) -> None:
    message = " ".join(message.split())
    # What is wrong stands at the start, the remedy at the end.
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
    # A quoted name may hold anything, codes that steer the terminal among it.
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
    with suppress(OSError):
        print(f"coinbench: {printable}", file=sys.stderr)
