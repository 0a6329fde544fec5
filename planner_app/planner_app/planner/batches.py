"""Calls that share what each would cost alone.

While one batch is worked on the next collects: the more there is to do, the more share one transaction, and
who comes alone waits for nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

MOST = 50
"""Calls in one batch: the last of them waits for all."""

_A = TypeVar("_A")
_R = TypeVar("_R")


class Batches(Generic[_A, _R]):
    """Calls `work` with as many arguments as have come; it returns for each a result, or the error to raise."""

    def __init__(self, work: Callable[[Sequence[_A]], Awaitable[Sequence[_R | Exception]]]) -> None:
        self._work = work
        self._waiting: list[tuple[_A, asyncio.Future[_R]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def call(self, argument: _A) -> _R:
        """Have one argument worked on together with those of others; who is cancelled is worked on all the same."""
        future: asyncio.Future[_R] = asyncio.get_running_loop().create_future()
        self._waiting.append((argument, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._run(), name="batches")
        return await future

    async def _run(self) -> None:
        batch: list[tuple[_A, asyncio.Future[_R]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                try:
                    results = await self._work([argument for argument, _ in batch])
                except Exception as error:  # noqa: BLE001 - it is for each of those who asked
                    results = [error] * len(batch)
                for (_, future), result in zip(batch, results, strict=True):
                    with suppress(asyncio.InvalidStateError):  # whoever waited may have gone
                        if isinstance(result, Exception):
                            future.set_exception(result)
                        else:
                            future.set_result(result)
        finally:
            self._worker = None
            for _, future in (*batch, *self._waiting):
                future.cancel()
