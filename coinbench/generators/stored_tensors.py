"""Tensors and arrays inside files of weights: raw bytes become tensors after every size was checked.

No loader of torch or numpy is used: torch's enlarges a storage without a word where a tensor claims more than there
is, and some of its versions run what a nested stream names.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from coinbench.generators.unpickle import Budget, Machine, Name, Refused, Stream, shown

_MAGIC = 0x1950A86A20F9469CFC6C
"""First value of what torch.save wrote before version 1.6, and still writes for a storage on its own."""
_PROTOCOL = 1001
OLDER = b"\x80\x02\x8a\x0a" + _MAGIC.to_bytes(10, "little")
"""How a file of it begins."""

STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
DIMENSIONS = 8
"""Of a tensor; weights have up to four."""
_STORAGE_NAMES: Mapping[str, None] = dict.fromkeys(STORAGES)
ARRAYS = {
    "f4": torch.float32,
    "f8": torch.float64,
    "f2": torch.float16,
    "i8": torch.int64,
    "i4": torch.int32,
    "i2": torch.int16,
    "i1": torch.int8,
    "u1": torch.uint8,
    "b1": torch.bool,
}


@dataclass(frozen=True, eq=False)
class Storage:
    """Values in a row, which tensors are views of."""

    values: Tensor


def is_count(value: Any) -> bool:
    """Tell whether a value is a whole number from 0 to less than 2^40; truth values are none.

    >>> is_count(3), is_count(-1), is_count(True), is_count(2.0), is_count(1 << 40)
    (True, False, False, False, False)
    """
    return type(value) is int and 0 <= value < 1 << 40


def storage(data: bytes | memoryview, dtype: torch.dtype, count: Any, budget: Budget) -> Storage:
    """Return `count` values of `dtype`.

    Raises:
        Refused: the data have another size.
    """
    if not is_count(count) or len(data) != count * dtype.itemsize:
        raise Refused(f"holds {len(data):,} bytes for a tensor that claims another size")
    budget.copy(len(data))
    # A copy, since what is read is not writable, and torch has no tensors that are not.
    return Storage(torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype))


def view(source: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """Return a tensor as a view of a storage, as torch rebuilds it; gradients and hooks are dropped.

    Raises:
        Refused: it would reach outside the storage, or use a value twice.
    """
    if not isinstance(source, Storage):
        raise Refused("makes a tensor of what holds no values")
    if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride) or len(size) > DIMENSIONS:
        raise Refused("holds a tensor whose shape is damaged")
    if not all(is_count(value) for value in (offset, *size, *stride)):
        raise Refused("holds a tensor with a shape, stride or offset that is negative, enormous or no whole number")
    count = source.values.numel()
    if size == (0,):
        return source.values[:0]
    # Steps along a side of one value are never made, and may be any number.
    steps = tuple(step if n > 1 else 1 for n, step in zip(size, stride, strict=True))
    last = offset
    for step, n in sorted(zip(steps, size, strict=True)):
        # Each side steps over all that the sides of smaller steps reach.
        if n > 1 and step <= last - offset:
            raise Refused("holds a tensor that uses a stored value twice")
        last += (n - 1) * step
    if 0 in size or last >= count:
        raise Refused(f"holds a tensor that is empty or reaches beyond its {count:,} stored values")
    return source.values.as_strided(size, steps, offset)


def parameter(data: Any, *_: Any) -> Tensor:
    """Return the tensor of a parameter."""
    if not isinstance(data, Tensor):
        raise Refused("holds a parameter that is no tensor")
    return data


def begin(stream: Stream, budget: Budget) -> None:
    """Read the head of what torch wrote before version 1.6.

    Raises:
        Refused: it is another head, or that of a machine with another byte order.
    """
    magic, protocol, system = (Machine(budget, {}).run(stream) for _ in range(3))
    if magic != _MAGIC or protocol != _PROTOCOL or not isinstance(system, dict):
        raise Refused("holds a tensor that torch did not save")
    if system.get("little_endian") is not True:
        raise Refused("holds a tensor that was saved on a machine with another byte order")


@dataclass(eq=False)
class Nested:
    """Reads a storage that torch saved on its own, which pickles hold as bytes.

    The stream: a magic number, a version, sizes of types, the storage's type and key, the keys, then the values.
    """

    budget: Budget
    claimed: list[tuple[torch.dtype, str, int]] = field(default_factory=list)

    def __call__(self, blob: Any) -> Storage:
        """Return the storage.

        Raises:
            Refused: it is damaged, or more than values of one type.
        """
        if not isinstance(blob, bytes):
            raise Refused("holds a tensor whose values are no bytes")
        # A file may ask for the same stream again and again.
        self.budget.copy(len(blob))
        stream = io.BytesIO(blob)
        self.claimed.clear()
        begin(stream, self.budget)
        _, keys = (Machine(self.budget, _STORAGE_NAMES, self.claim).run(stream) for _ in range(2))
        if len(self.claimed) != 1 or keys != [self.claimed[0][1]]:
            raise Refused("holds a tensor whose values are not one storage")
        dtype, _, count = self.claimed[0]
        if int.from_bytes(stream.read(8), "little") != count:
            raise Refused("holds a tensor whose storage is damaged")
        return storage(memoryview(blob)[stream.tell() :], dtype, count, self.budget)

    def claim(self, given: Any) -> None:
        """Keep what a persistent id says of the storage; its values follow later in the stream."""
        self.claimed.append(claim(given, 6))


def claim(given: Any, length: int) -> tuple[torch.dtype, str, int]:
    """Return type, key and number of values that a persistent id of torch claims."""
    fine = type(given) is tuple and len(given) == length and given[0] == "storage" and given[5:] in ((), (None,))
    if not fine or not isinstance(given[1], Name) or not isinstance(given[2], str) or not is_count(given[4]):
        raise Refused("refers to data outside the file (a persistent id)")
    return STORAGES[given[1].full], given[2], given[4]


def outside(read: Callable[[str], bytes], budget: Budget, length: int = 5) -> Callable[[Any], Storage]:
    """Return what finds the storage of a persistent id by its key, once for all tensors that share it."""
    known: dict[str, tuple[torch.dtype, Storage]] = {}

    def find(given: Any) -> Storage:
        dtype, key, count = claim(given, length)
        if key not in known:
            known[key] = dtype, storage(read(key), dtype, count, budget)
        if known[key][0] != dtype or known[key][1].values.numel() != count:
            raise Refused("holds tensors that disagree about the storage they share")
        return known[key][1]

    return find


@dataclass(eq=False)
class DType:
    """A numpy type: its code, and once completed its byte order."""

    code: str

    def build(self, state: Any) -> None:
        """Check what completes it: byte order, no fields.

        Raises:
            Refused: bytes in another order, or several values in one.
        """
        if type(state) is not tuple or state[1:2] not in (("<",), ("|",)) or state[2:5] != (None, None, None):
            raise Refused("holds an array of a type with fields or of another byte order")


def dtype(code: Any, *_: Any) -> DType:
    """Return a numpy type.

    Raises:
        Refused: not a type of plain numbers.
    """
    if not isinstance(code, str) or code not in ARRAYS:
        raise Refused(f"holds an array of type {shown(code)}; weights are plain numbers")
    return DType(code)


@dataclass(eq=False)
class Array:
    """A numpy array, which the file makes empty and fills afterwards."""

    budget: Budget
    tensor: Tensor | None = None

    def build(self, state: Any) -> None:
        """Take an array's version, shape, type, order and bytes.

        Raises:
            Refused: they do not fit each other.
        """
        if type(state) is not tuple or len(state) != 5 or type(state[1]) is not tuple:
            raise Refused("holds an array whose state is damaged")
        _, shape, kind, fortran, data = state
        if not isinstance(kind, DType) or len(shape) > DIMENSIONS or not all(is_count(n) for n in shape):
            raise Refused("holds an array whose shape or type is damaged")
        order = shape if fortran is True else shape[::-1]
        steps = [math.prod(order[:i]) for i in range(len(order))]
        strides = tuple(steps if fortran is True else steps[::-1])
        self.tensor = view(_filled(kind, math.prod(shape), data, self.budget), 0, shape, strides)


def _filled(kind: DType, count: int, data: Any, budget: Budget) -> Storage:
    if isinstance(data, str):
        # Python 2 wrote bytes as text of the same numbers.
        data = encode(budget)(data, "latin1")
    if not isinstance(data, bytes):
        raise Refused("holds an array whose values are no plain numbers")
    return storage(data, ARRAYS[kind.code], count, budget)


def scalar(budget: Budget) -> Callable[..., Tensor]:
    """Return what makes a number of numpy's a tensor without dimensions."""

    def make(kind: Any, data: Any) -> Tensor:
        if not isinstance(kind, DType):
            raise Refused("holds a number whose type is damaged")
        return view(_filled(kind, 1, data, budget), 0, (), ())

    return make


def blank(budget: Budget) -> Callable[..., Array]:
    """Return what makes the array that the file fills afterwards; size and type given here are placeholders."""

    def make(kind: Any, *_: Any) -> Array:
        if not isinstance(kind, Name) or kind.full != "numpy.ndarray":
            raise Refused("makes an array of a class other than numpy's")
        return Array(budget)

    return make


def encode(budget: Budget) -> Callable[..., bytes]:
    """Return what turns text to the bytes that protocol 2 could not write as such."""

    def make(text: Any, encoding: Any = None) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise Refused("holds bytes in an unknown encoding")
        budget.copy(len(text))
        return text.encode("latin1")

    return make


def tensor_calls(budget: Budget) -> Mapping[str, Callable[..., Any] | None]:
    """Return what calls in pickled modules make of tensors and arrays."""
    core = {
        f"{numpy}.multiarray.{name}": call(budget)
        for numpy in ("numpy.core", "numpy._core")
        for name, call in (("scalar", scalar), ("_reconstruct", blank))
    }
    return core | {
        "torch._utils._rebuild_parameter": parameter,
        "torch._utils._rebuild_tensor_v2": view,
        "torch.storage._load_from_bytes": Nested(budget),
        "numpy.dtype": dtype,
        "numpy.ndarray": None,
        "_codecs.encode": encode(budget),
    }
