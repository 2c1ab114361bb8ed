"""Where numbers come from: code, versions, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("coinbench", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "pillow")


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit and dirtiness of the checkout that `folder` is in; None for an installed package."""
    try:
        commit, status = (
            subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "."))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(status)}


def versions() -> dict[str, str]:
    """Return the versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def machine(threads: int) -> dict[str, Any]:
    """Return the machine in words."""
    return {"threads": threads, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def here() -> Path:
    """Return the folder of this package."""
    return Path(__file__).resolve().parent
