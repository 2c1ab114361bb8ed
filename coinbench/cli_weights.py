"""`coinbench weights`: published generators to safetensors, and what such a file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from coinbench.cli_info import AsJson

weights_app = typer.Typer(
    help="Convert and look at published weights.",
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
