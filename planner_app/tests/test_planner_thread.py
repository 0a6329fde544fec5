"""The one thread in which a planner's ledger is written."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator

import pytest
from planner_app.planner.thread import OneThread


@pytest.fixture
async def thread() -> AsyncIterator[OneThread]:
    made = OneThread("a test's")
    yield made
    made.stop()


async def test_calls_come_one_after_the_other_in_one_thread(thread: OneThread) -> None:
    seen: list[tuple[int, str]] = []

    def note(number: int, *, twice: int) -> int:
        seen.append((number, threading.current_thread().name))
        return number * twice

    assert await asyncio.gather(*(thread.call(note, number, twice=2) for number in range(50))) == list(range(0, 100, 2))
    assert seen == [(number, "a test's") for number in range(50)]


async def test_an_error_is_for_who_called_and_the_thread_goes_on(thread: OneThread) -> None:
    with pytest.raises(ZeroDivisionError):
        await thread.call(lambda: 1 // 0)
    assert await thread.call(lambda: 1) == 1


async def test_what_is_cancelled_before_its_turn_is_not_called(thread: OneThread) -> None:
    begun, go, called = threading.Event(), threading.Event(), []

    def hold() -> None:
        begun.set()
        assert go.wait(10)

    first = asyncio.create_task(thread.call(hold))
    second = asyncio.create_task(thread.call(called.append, 2))
    third = asyncio.create_task(thread.call(called.append, 3))
    await asyncio.to_thread(begun.wait, 10)
    first.cancel()  # is under way, and what comes of it is nobody's
    second.cancel()
    go.set()
    await third
    assert called == [3]


async def test_it_is_idle_once_all_that_was_asked_is_done(thread: OneThread) -> None:
    go = threading.Event()
    assert thread.idle
    first = asyncio.create_task(thread.call(go.wait, 10))
    second = asyncio.create_task(thread.call(lambda: 1 // 0))
    third = asyncio.create_task(thread.call(lambda: 3))
    await asyncio.sleep(0)
    assert not thread.idle
    third.cancel()
    go.set()
    with pytest.raises(ZeroDivisionError):
        await second
    while not thread.idle:
        await asyncio.sleep(0.001)
    assert await first
    # What is cancelled before it was asked for is nothing to wait for either.
    never = asyncio.create_task(thread.call(lambda: 4))
    never.cancel()
    await asyncio.sleep(0)
    assert thread.idle


async def test_it_is_stopped_after_all_that_was_asked() -> None:
    thread, called = OneThread("a test's"), []
    asked = [asyncio.create_task(thread.call(called.append, number)) for number in range(20)]
    await asyncio.sleep(0)
    thread.stop()
    assert called == list(range(20))
    await asyncio.gather(*asked)


async def test_it_ends_where_nobody_has_it_any_more() -> None:
    thread = OneThread("a test's")
    await thread.call(lambda: None)
    worker = thread._thread
    del thread
    gc.collect()
    await asyncio.to_thread(worker.join, 10)
    assert not worker.is_alive()
