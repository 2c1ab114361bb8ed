"""State dicts of torch.save, read without torch's loader.

Since version 1.6 they are a zip of one pickle and the values of each storage; before it, pickles followed by values.
"""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from io import BufferedReader
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from coinbench.errors import is_out_of_memory
from coinbench.generators.initial import PARTS
from coinbench.generators.published import Network
from coinbench.generators.shapes import arguments_of
from coinbench.generators.stored_tensors import OLDER, STORAGES, begin, claim, outside, parameter, view
from coinbench.generators.unpickle import LETTERS, Budget, Machine, Refused, plain, printable, quoted, shown

_ENTRIES = 20_000
_DIRECTORY = 8 * 1024**2
"""Bytes of a zip file's directory, of which each may cost many in memory; those of state dicts have less than 1 MB."""
_CALLS: Mapping[str, Callable[..., Any] | None] = {
    **dict.fromkeys(STORAGES),
    "torch._utils._rebuild_parameter": parameter,
    # Of files before torch 0.4, as torchvision still publishes one.
    "torch._utils._rebuild_tensor": view,
    "torch._utils._rebuild_tensor_v2": view,
}


def _calls(budget: Budget) -> Mapping[str, Callable[..., Any] | None]:
    """Return what the names of a state dict stand for."""

    def ordered(pairs: Any = ()) -> dict[Any, Any]:
        # Python 3 fills the dictionary afterwards; Python 2, which early files are from, gives a list of pairs.
        if type(pairs) not in (list, tuple) or not all(type(pair) is list and len(pair) == 2 for pair in pairs):
            raise Refused("holds a damaged dictionary")
        # A file may ask for one list again and again.
        budget.operations -= len(pairs)
        return {plain(key): value for key, value in pairs}

    return {**_CALLS, "collections.OrderedDict": ordered}


class _Guarded:
    """A file that hands out no more than `most` bytes at once."""

    def __init__(self, file: BufferedReader) -> None:
        self.file, self.most = file, _DIRECTORY

    def read(self, count: int = -1) -> bytes:
        if count > self.most:
            raise Refused("is a zip file with a longer directory than any state dict has")
        return self.file.read(count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def read_state_dicts(
    file: BufferedReader, budget: Budget, wanted: tuple[str, ...]
) -> tuple[dict[str, Network], list[str]]:
    """Return the networks of a file, and the names of what else it holds.

    Raises:
        Refused: no such file, or one that holds more than tensors.
    """
    return _networks(_opened(file, budget), wanted)


def _opened(file: BufferedReader, budget: Budget) -> Any:
    try:
        guarded = _Guarded(file)
        # It reads the directory at once, and makes an object of each entry.
        with zipfile.ZipFile(cast(Any, guarded)) as archive:
            guarded.most = sys.maxsize
            return _unpickle(archive, budget)
    # zipfile passes on whatever a damaged directory makes of its arithmetic.
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError, ValueError, LookupError, struct.error) as error:
        if is_out_of_memory(error):
            raise
        raise Refused(f"is a damaged zip file ({printable(str(error))})") from error


def read_older(stream: mmap, budget: Budget, wanted: tuple[str, ...]) -> tuple[dict[str, Network], list[str]]:
    """Return the same of a file in the format before torch 1.6.

    Raises:
        Refused: it is damaged, or holds more than tensors.
    """
    return _networks(_unpickle_older(stream, budget), wanted)


def _unpickle_older(stream: mmap, budget: Budget) -> Any:
    begin(stream, budget)
    start = stream.tell()
    claimed: dict[str, tuple[int, int]] = {}
    calls = _calls(budget)

    def note(given: Any) -> None:
        dtype, key, count = claim(given, 6)
        claimed[key] = count, dtype.itemsize

    # The values follow what uses them: it is read for their sizes, and again when their places are known.
    blank = {name: call and (lambda *_: {}) for name, call in calls.items()}
    Machine(budget, blank, note).run(stream)
    keys = Machine(budget, {}).run(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or {*keys} != claimed.keys():
        raise Refused("does not list the storages that it uses")
    end, places = stream.tell(), dict[str, slice]()
    for key in keys:
        count, size = claimed[key]
        # The number of values stands before them.
        start_of = end + 8
        if int.from_bytes(stream[end:start_of], "little") != count:
            raise Refused("holds a tensor whose storage is damaged")
        end = start_of + count * size
        places[key] = slice(start_of, end)

    def values(key: str) -> bytes:
        budget.copy(places[key].stop - places[key].start)
        return stream[places[key]]

    stream.seek(start)
    return Machine(budget, calls, outside(values, budget, 6)).run(stream)


def read_flat(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one state dict that torch.save wrote.

    Raises:
        Refused: it is damaged, or holds anything but tensors.
    """
    size = path.stat().st_size
    budget = Budget.of(size)
    with path.open("rb") as file:
        older = file.read(len(OLDER)) == OLDER
        file.seek(0)
        if older:
            with mmap(file.fileno(), 0, access=ACCESS_READ) as stream:
                found = _unpickle_older(stream, budget)
        else:
            found = _opened(file, budget)
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise Refused("holds no state dict")
    for key, value in found.items():
        if not isinstance(value, Tensor):
            raise Refused(f"holds what is no tensor at {shown(key)}")
    return dict(found)


def _unpickle(archive: zipfile.ZipFile, budget: Budget) -> Any:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()) or len(entries) > _ENTRIES:
        raise Refused("is a zip file that holds a name twice, or too many")
    if any(name.endswith("/constants.pkl") for name in entries):
        raise Refused("is a TorchScript program; only state dicts are read")
    # torch.save never compresses: what unfolds to more than the file is no state dict.
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries.values()):
        raise Refused("is a compressed or encrypted zip file, which torch.save does not write")
    folders = [
        name.removesuffix("/data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")
    ]
    if len(folders) != 1:
        raise Refused("is a zip file without a state dict that torch.save wrote")
    folder = folders[0]
    order = f"{folder}/byteorder"
    if order in entries and archive.read(order) != b"little":
        raise Refused("was saved on a machine with another byte order")

    def values(key: str) -> bytes:
        name = f"{folder}/data/{key}"
        if name not in entries:
            raise Refused(f"lacks the values of storage {quoted(key)}")
        budget.copy(entries[name].file_size)
        return archive.read(name)

    machine = Machine(budget, _calls(budget), outside(values, budget))
    return machine.run(io.BytesIO(archive.read(f"{folder}/data.pkl")))


def _networks(found: Any, wanted: tuple[str, ...]) -> tuple[dict[str, Network], list[str]]:
    """Return the networks of what was pickled: one flat state dict is G_ema, several stand under their names."""
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise Refused("holds no state dict")
    parts = {part.lower(): part for part in PARTS}
    # A copy of a long name may cost a multiple of the file.
    named = {key: parts.get(key.lower()) for key in found if len(key) <= LETTERS}
    if "G_ema" not in named.values():
        return {"G_ema": _network("G_ema", found)}, []
    networks: dict[str, Network] = {}
    rest: list[str] = []
    for key, value in found.items():
        part = named.get(key)
        if part in networks:
            raise Refused(f"holds {part} twice")
        if part is None:
            rest.append(printable(key))
        elif value is not None and part in wanted:
            networks[part] = _network(part, value)
    return networks, rest


def _network(part: str, found: Any) -> Network:
    if not isinstance(found, dict):
        raise Refused(f"holds no state dict under {part}")
    tensors: dict[str, Tensor] = {}
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise Refused(f"holds what is no tensor at {shown(key)} in {part}")
        tensors[key] = value
    return Network(tensors, arguments_of(tensors, "Discriminator" if part == "D" else "Generator"))
