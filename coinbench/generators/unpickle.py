"""A reader of pickles that runs nothing: it interprets the stream itself and knows no more than files of weights need.

Python's unpickler calls whatever a file names. Here a name stands for itself; a call of one of the few names in the
table makes plain data, a tensor or a record of what was said, and any other name ends the reading. Nothing recurses,
and operations and nesting are bounded by constants, and copied bytes, wide text among them, by the size of the file.
"""

from __future__ import annotations

import pickletools
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from mmap import mmap
from typing import Any, cast

OPERATIONS = 500_000
"""Of the pickle machine in one file with all that is nested in it; published files have less than 100,000."""
NESTED = 200
"""Open marks, which is the depth of containers within containers; published files have about 30."""
WAITING = 50_000
"""Values on the stack."""
REMEMBERED = 200_000
"""Values in the memo."""
LETTERS = 100
"""Of a name; StyleGAN2's have less than 50. Longer are source texts, and bytes that protocol 2 wrote as text."""

_NO_PICKLE = "is no pickle of protocol 2 or later, nor a state dict that torch.save wrote"


class Refused(Exception):
    """Why a file is not read: the end of a message that begins with its name."""


Stream = BytesIO | mmap
"""What is read from: both hand out no more than is left, whatever length a file claims."""


@dataclass
class Budget:
    """What one file may cost: one for the stream and all streams nested in it."""

    room: int
    """Bytes that may still be copied."""
    operations: int = OPERATIONS

    @classmethod
    def of(cls, size: int) -> Budget:
        """Return the budget of a file.

        A tensor is copied as text, as a stream of its own, as a storage and to the output; the first by old protocols
        alone, and the last twice where networks share it.

        >>> Budget.of(100).room
        400
        """
        return cls(4 * size)

    def copy(self, size: int) -> None:
        """Count bytes before they are copied."""
        self.room -= size
        if self.room < 0:
            raise Refused("would unfold to more than the file holds")


@dataclass(frozen=True, eq=False)
class Name:
    """A global that a file names; it is not looked up."""

    full: str


@dataclass(eq=False)
class Machine:
    """The stack machine that a pickle is a program of."""

    budget: Budget
    calls: Mapping[str, Callable[..., Any] | None]
    """What a call of each known name returns; None: it may be named, not called."""
    persistent: Callable[[Any], Any] | None = None
    """What a persistent id stands for; None: there are none."""
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, stream: Stream) -> Any:
        """Return what a stream describes, and leave it after its end.

        Raises:
            Refused: it is damaged, too large, or names what weights do not need.
        """
        first = True
        try:
            # It only reads lines, bytes and positions, which a mapped file has as well as what its type asks for.
            for opcode, argument, _ in pickletools.genops(cast(Any, stream)):
                name = opcode.name
                if first and name != "PROTO":
                    break
                first = False
                self.budget.operations -= 1
                if name == "STOP":
                    return self._pop()
                # The commonest here, and not each in a function of its own, which would take most of the time.
                if name in _VALUES:
                    if type(argument) is str and len(argument) > LETTERS:
                        self._charge(argument)
                    self.stack.append(argument)
                elif name in _CONSTANTS:
                    self.stack.append(_CONSTANTS[name]())
                elif name in _GET:
                    self.stack.append(self.memo[cast(int, argument)])
                elif name in _PUT:
                    self.memo[len(self.memo) if name == "MEMOIZE" else cast(int, argument)] = self.stack[-1]
                elif name == "MARK":
                    self.marks.append(len(self.stack))
                elif name in _STEPS:
                    _STEPS[name](self, argument)
                elif name not in ("PROTO", "FRAME"):
                    raise Refused(f"uses the operation {name}, which no file of weights needs")
                if self.budget.operations < 0 or len(self.memo) > REMEMBERED:
                    raise Refused("has more operations or remembers more than any file of weights")
                if len(self.stack) > WAITING or len(self.marks) > NESTED:
                    raise Refused("is nested deeper than any file of weights")
        except (ValueError, LookupError, TypeError, OverflowError, struct.error) as error:
            raise Refused("is damaged or cut short" if not first else _NO_PICKLE) from error
        raise Refused(_NO_PICKLE)

    def _charge(self, text: str) -> None:
        size = sys.getsizeof(text)
        # One letter beyond Latin-1 makes all of them two or four bytes wide, beside the bytes that were read.
        if size > 2 * len(text):
            self.budget.copy(len(text) + size)

    def _pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise LookupError("the stack is empty")
        return self.stack.pop()

    def _top(self, kind: type) -> Any:
        # The exact type: what the file completes must be what it made as a plain container.
        if type(self.stack[-1]) is not kind:
            raise TypeError(f"no {kind.__name__}")
        return self.stack[-1]

    def _items(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _drop_items(self, _: Any) -> None:
        self._items()

    def _drop(self, _: Any) -> None:
        self._pop()

    def _tuple(self, count: int | None) -> None:
        items = self._items() if count is None else [self._pop() for _ in range(count)][::-1]
        self.stack.append(tuple(items))

    def _list(self, _: Any) -> None:
        self.stack.append(self._items())

    def _dict(self, _: Any) -> None:
        items = self._items()
        self.stack.append({})
        self._set(items)

    def _append(self, _: Any) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _appends(self, _: Any) -> None:
        items = self._items()
        self._top(list).extend(items)

    def _set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _set_items(self, _: Any) -> None:
        self._set(self._items())

    def _set(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[plain(key)] = value

    def _add_items(self, _: Any) -> None:
        items = self._items()
        self._top(set).update(plain(item) for item in items)

    def _global(self, full: str) -> None:
        module, _, attribute = full.partition(" ")
        self._name(module, attribute)

    def _stack_global(self, _: Any) -> None:
        attribute, module = self._pop(), self._pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise TypeError("a name is no text")
        self._name(module, attribute)

    def _name(self, module: str, attribute: str) -> None:
        full = f"{module}.{attribute}"
        if full not in self.calls:
            raise Refused(
                f"asks for {quoted(full)}, which is not among what StyleGAN2's files need; nothing of it was run"
            )
        self.stack.append(Name(full))

    def _call(self, _: Any) -> None:
        arguments, name = self._pop(), self._pop()
        if not isinstance(name, Name) or type(arguments) is not tuple:
            raise Refused("calls what is no function")
        call = self.calls[name.full]
        if call is None:
            raise Refused(f"calls {name.full}, which files of weights only name")
        self.stack.append(call(*arguments))

    def _build(self, _: Any) -> None:
        state, value = self._pop(), self.stack[-1]
        if hasattr(type(value), "build"):
            value.build(state)
        # Attributes of a dictionary, as the versions that state dicts carry, are dropped: none is a weight.
        elif type(value) is not dict:
            raise TypeError("no object to complete")

    def _persistent(self, _: Any) -> None:
        if self.persistent is None:
            raise Refused("refers to data outside the file (a persistent id)")
        self.stack.append(self.persistent(self._pop()))


def plain(key: Any) -> Any:
    """Return a key of a dictionary.

    What nests could be hashed only by recursion, long numbers slowly, and a file could choose numbers that collide.

    Raises:
        Refused: it is neither text nor a small number.
    """
    if not isinstance(key, str) and not (type(key) is int and 0 <= key < 1 << 32):
        raise Refused("has a key that is neither text nor a number below 2^32")
    return key


def shown(value: Any) -> str:
    """Return a value from a file for a message: plain ones short, others by their type alone.

    >>> shown(5), shown([[]])
    ('5', 'of type list')
    """
    if isinstance(value, str):
        return quoted(value)
    # What nests is printed by recursion, and long numbers not at all.
    plain = value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 64)
    return str(value) if plain else f"of type {type(value).__name__}"


def quoted(text: str) -> str:
    """Return a name from a file for a message.

    >>> quoted("os.system")
    "'os.system'"
    """
    return f"'{printable(text)}'"


def printable(text: str) -> str:
    r"""Return a name from a file, short and without what could steer a terminal.

    >>> printable("a" * 100 + "b") == "a" * 80 + "...", printable("\x1b[2J")
    (True, '\\x1b[2J')
    """
    # Escapes are up to ten times as long as what they stand for.
    escaped = ascii(text[:81])[1:-1]
    return escaped if len(escaped) <= 80 else f"{escaped[:80]}..."


_VALUES = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
)
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
# GET and PUT of protocol 0 are left out: they write numbers of any length, which could collide.
_GET = frozenset({"BINGET", "LONG_BINGET"})
_PUT = frozenset({"MEMOIZE", "BINPUT", "LONG_BINPUT"})
_STEPS: Mapping[str, Callable[[Machine, Any], None]] = {
    "POP": Machine._drop,
    "POP_MARK": Machine._drop_items,
    "TUPLE": lambda machine, _: machine._tuple(None),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "LIST": Machine._list,
    "DICT": Machine._dict,
    "APPEND": Machine._append,
    "APPENDS": Machine._appends,
    "SETITEM": Machine._set_item,
    "SETITEMS": Machine._set_items,
    "ADDITEMS": Machine._add_items,
    "GLOBAL": Machine._global,
    "STACK_GLOBAL": Machine._stack_global,
    "REDUCE": Machine._call,
    "NEWOBJ": Machine._call,
    "BUILD": Machine._build,
    "BINPERSID": Machine._persistent,
    "PERSID": Machine._persistent,
}
