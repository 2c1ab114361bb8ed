"""The processes that work on one cell together, as one of them sees them; by itself it is the only one.

Every process runs the same program. What is random is keyed by the step and the image, so each can take its share of a
batch and the shares make the batch of one process; what is written or said is the first one's affair. Never imports
torch before it is needed: a log has a group too.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from coinbench.errors import CoinbenchError, Lost, UsageError, is_out_of_memory

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

T = TypeVar("T")
NEEDS_EXTRA = "several processes need the extra: pip install 'coinbench[distributed]'"
_BUCKET = 2**24
"""Elements that are summed at a time: 64 MB of float32."""


@dataclass(slots=True)
class Group:
    """One process among `size`; `coinbench.distributed.join` makes groups of more than one."""

    rank: int = 0
    """0 is the process that writes and talks."""
    size: int = 1
    part: int = 0
    """Of a batch that is too large for memory: which part of its share a process computes at the moment."""
    parts: int = 1
    control: Any = None
    """torch's process group for what lies in the memory of the CPU."""

    @property
    def first(self) -> bool:
        """Tell whether this is the process that writes and talks."""
        return self.rank == 0

    def mine(self, n: int) -> slice:
        """Return which of n samples this process computes at the moment.

        Raises:
            UsageError: there are no equal shares or parts.

        >>> Group(rank=1, size=2).mine(6), Group(rank=1, size=2, part=0, parts=3).mine(6)
        (slice(3, 6, None), slice(3, 4, None))
        """
        refuse_uneven(n, self.size)
        each, rest = divmod(n // self.size, self.parts)
        if rest:
            raise UsageError(
                f"images in a step = {n}: --auto-batch came to {self.parts} equal parts of a batch; set all numbers of "
                f"images in a step to multiples of {self.parts}"
            )
        low = (self.rank * self.parts + self.part) * each
        return slice(low, low + each)

    def share(self, values: Any) -> Any:
        """Return the rows of a batch (tensor, array or list) that this process computes at the moment."""
        return values[self.mine(len(values))]

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean of x over the processes; gradients flow to all of them.

        For what is no mean over samples: with it a loss on each share has, averaged over the processes, value and
        gradient of the loss on the whole batch.
        """
        if self.size == 1:
            return x
        from coinbench.distributed import mean

        return mean(x, self.size)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place, the same bits in each of them."""
        if self.size == 1:
            return
        import torch
        import torch.distributed

        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with linked():
                torch.distributed.all_reduce(flat)
            flat.div_(self.size)
            for tensor, mean in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(mean.view(tensor.shape))

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of the first process."""
        if self.size == 1:
            return
        import torch.distributed

        for tensor in tensors:
            value = tensor.contiguous()
            with linked():
                torch.distributed.broadcast(value, 0)
            tensor.copy_(value)

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank; they must be picklable."""
        if self.size == 1:
            return [value]
        import torch.distributed

        found: list[Any] = [None] * self.size
        with linked():
            torch.distributed.all_gather_object(found, value, group=self.control)
        return found

    def any(self, flag: bool) -> bool:
        """Tell whether one of the processes says so."""
        if self.size == 1:
            return flag
        import torch
        import torch.distributed

        said = torch.tensor([int(flag)])
        with linked():
            torch.distributed.all_reduce(said, group=self.control)
        return bool(said)

    def lead(self, do: Callable[[], T]) -> T:
        """Let the first process do something, while the others wait for what it returns or raises."""
        if self.size == 1:
            return do()
        import torch.distributed

        result: list[Any] = [_attempt(do)] if self.first else [None]
        with linked():
            torch.distributed.broadcast_object_list(result, 0, group=self.control)
        value, error = result[0]
        if error is not None:
            raise error
        return value

    @contextmanager
    def leading(self, make: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
        """Let the first process enter a context for all; where that fails, it fails in all."""
        with ExitStack() as stack:
            self.lead(lambda: stack.enter_context(make()) and None)
            yield

    def together(self, do: Callable[[], T]) -> list[T]:
        """Do something in every process and return what each found, by rank.

        Raises:
            Exception: what it raised in the first process where it did; then in all.
        """
        if self.size == 1:
            return [do()]
        every = self.gather(_attempt(do))
        for _, error in every:
            if error is not None:
                raise error
        return [value for value, _ in every]  # pyright: ignore[reportReturnType]

    def turns(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items that are this process's when all take turns."""
        return items[self.rank :: self.size]

    def join(self, own: Iterable[T]) -> list[T]:
        """Return the results for all items in their order, of which `own` yields those of this process's turns.

        Raises:
            Exception: what making them raised in one of the processes; then in all.
        """
        every = self.together(lambda: list(own))
        return [every[n % self.size][n // self.size] for n in range(sum(map(len, every)))]


@contextmanager
def linked() -> Iterator[None]:
    """Say in a line that a message did not reach the other processes, as torch says when one of them has ended.

    Raises:
        Lost: it did not.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise Lost(
            "another process of the cell ended: its own line says why, or it was killed, perhaps for want of memory; "
            "the same command resumes"
        ) from error


def launched() -> int:
    """Return how many processes torchrun or srun started of this command; 1 where neither did.

    A script that sbatch or salloc runs by itself is one process, whatever number of tasks it may start.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if "SLURM_PROCID" in os.environ:
        return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    return 1


def refuse_uneven(n: int, size: int, what: str = "images in a step") -> None:
    """Refuse a number of images of which processes cannot take equal shares.

    Raises:
        UsageError: says what to set.

    >>> refuse_uneven(6, 4, "method.train.batch")
    Traceback (most recent call last):
    ...
    coinbench.errors.UsageError: method.train.batch = 6: 4 processes cannot take equal shares; set it to a multiple \
of 4, or take 1, 2, 3, 6 processes
    """
    if n % size:
        fit = ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)
        raise UsageError(
            f"{what} = {n}: {size} processes cannot take equal shares; set it to a multiple of {size}, or take {fit} "
            "processes"
        )


def _attempt(do: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Return what was returned and what was raised, both fit to be sent."""
    try:
        return do(), None
    except Exception as error:
        try:
            return None, pickle.loads(pickle.dumps(error))
        # An exception of foreign code may be anything: only its words can be sent.
        except Exception:
            return None, CoinbenchError(f"{type(error).__name__}: {error}")


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors of one type that are summed together."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(other.numel() for other in bucket) + tensor.numel() > _BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
