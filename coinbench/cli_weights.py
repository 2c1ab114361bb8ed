"""`coinbench weights`: published weights fetched and verified; published generators to safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinbench.cli_info import AsJson, CacheRoot, Offline

if TYPE_CHECKING:
    from coinbench.log import Log

weights_app = typer.Typer(
    help="Fetch, verify, convert and look at published weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@weights_app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A StyleGAN2 pickle of NVIDIA's code, or a state dict of torch.save.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="What to write.")],
    networks: Annotated[str | None, typer.Option("--networks", help="As G_ema or G_ema,G (default: all).")] = None,
    as_json: AsJson = False,
) -> None:
    """Convert a published file without running anything in it."""
    from coinbench.generators import convert as converter
    from coinbench.plan import names

    converter.convert(file, out, names(networks))
    show(out, as_json)


@weights_app.command()
def show(file: Annotated[Path, typer.Argument(help="A converted file.")], as_json: AsJson = False) -> None:
    """Say what a converted file holds: networks, arguments, provenance, licence."""
    from coinbench.generators.convert import as_text, describe

    found = describe(file)
    print(json.dumps(found, indent=2) if as_json else as_text(found))


Names = Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="As `weights list` shows them.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


@weights_app.command("list")
def listing(cache: CacheRoot = None, as_json: AsJson = False) -> None:
    """List published weights: what they are for, whether a run finds them, where they come from, their terms."""
    from coinbench.published_weights import FILES, folder, present

    here = folder(cache)
    rows = {
        name: {
            "here": present(name, here) == "here",
            "state": present(name, here),
            "file": entry.remote.name,
            "for": entry.purpose,
            "licence": entry.licence,
            "url": entry.remote.url,
            "hint": entry.remote.hint,
        }
        for name, entry in FILES.items()
    }
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for name, row in rows.items():
        print(f"{name:<14} {row['state']:<13} {row['for']}; {row['licence']}; {row['url'] or row['hint']}")
    print(f"in {here}")


@weights_app.command()
def fetch(names: Names = None, cache: CacheRoot = None, offline: Offline = False, quiet: Quiet = False) -> None:
    """Download published weights and verify them; of generators convert them. Resumes."""
    from coinbench.errors import UsageError
    from coinbench.published_weights import FILES, bring

    if not names:
        raise UsageError(f"weights fetch: name what to fetch; known: {', '.join(FILES)}")
    _each(names, cache, quiet, bring, "fetched, ")


@weights_app.command()
def verify(names: Names = None, cache: CacheRoot = None, quiet: Quiet = False) -> None:
    """Compare weights that are here with their published digests; without a name all that are here.

    Each file is reported; the exit code is 4 where one is missing or another one.
    """
    from coinbench.errors import UsageError
    from coinbench.published_weights import FILES, folder, present, verified

    here = [name for name in FILES if present(name, folder(cache)) != "not here"]
    if not (names or here):
        raise UsageError(f"weights verify: none named and none here; known: {', '.join(FILES)}")
    _each(names or here, cache, quiet, verified, "")


def _each(
    names: list[str], cache: Path | None, quiet: bool, work: Callable[[str, Path | None, Log], Path], told: str
) -> None:
    """Do the same for each file, whatever became of those before it.

    Raises:
        UsageError: a name is unknown.
        DataError: one file is not as it should be; of several, how many.
    """
    from coinbench.errors import DataError
    from coinbench.log import Log, stopping
    from coinbench.progress import Display
    from coinbench.published_weights import folder, known, verdict

    # All names first: nothing is fetched for half of a wrong command.
    for name in names:
        known(name)
    wrong: list[DataError] = []
    with Display(quiet) as display:
        for name in names:
            log = Log(folder(cache), partial(display.event, name), stage="weights")
            try:
                with stopping(log):
                    path = work(name, cache, log)
                line = f"{name}: {path}: {told}{verdict(name, folder(cache))}"
            except DataError as error:
                wrong.append(error)
                if len(names) > 1:
                    print(f"{name}: {error}")
                continue
            print(line)
    if len(wrong) == len(names) == 1:
        raise wrong[0]
    if wrong:
        count = f"{len(wrong)} of {len(names)} files are"
        raise DataError(f"weights: {count} missing or not as published; what each needs stands above")
