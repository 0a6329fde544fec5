"""What the ledger waits for until it is on disc, and what it does not: offers, which a power cut may take."""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from planner_app.execution_broker.models import Phase
from planner_app.execution_broker.times import Interval
from planner_app.planner.ledger import Ledger, Note, SessionRow
from planner_app.planner.quoting import Amount, Offer, Quote
from tests.fakes import NINE

LATER = NINE + timedelta(seconds=1)
OVER = NINE + timedelta(minutes=2)
NOTE = Note("urn:test", "${who} did it", {"who": "the test"})
FSYNC = {"x86_64": (74, 75), "aarch64": (82, 83)}[os.uname().machine]
"""The numbers of the calls fsync and fdatasync."""
EIO = 5

PASSING: dict[str, Callable[[Ledger, SessionRow], object]] = {
    "request": lambda ledger, _: reserve(ledger),
    "expire": lambda ledger, _: ledger.expire(OVER),
    "reject": lambda ledger, row: ledger.change(row.uuid, LATER, [Phase.OFFERED], Phase.REJECTED, NOTE),
}
LASTING: dict[str, Callable[[Ledger, SessionRow], object]] = {
    "accept": lambda ledger, row: ledger.accept(row.uuid, LATER, Interval(LATER, LATER), Interval(NINE, OVER), NOTE),
    "prepare": lambda ledger, row: ledger.change(row.uuid, LATER, [Phase.OFFERED], Phase.PREPARING, NOTE),
    "submitted": lambda ledger, row: ledger.note(row.uuid, LATER, NOTE, job_id="42", submitted=LATER),
    "key": lambda ledger, _: ledger.keys.claim("voter", "a key", "a request", LATER, NINE),
}


def reserve(ledger: Ledger) -> SessionRow:
    made = Offer(
        amount=Amount(2, 4, 11, 1),
        start=Interval(NINE, OVER),
        duration=timedelta(hours=1),
        expires=NINE + timedelta(seconds=60),
        reserved=Interval(NINE, OVER),
        costs={"monetary": 0.02},
        metrics={},
    )
    (row,) = ledger.reserve(client="voter", request={}, program=None, now=NINE, make=lambda _: Quote((made,)))[1]
    return row


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield opened
    opened.close()


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("value", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def refuse_to_sync() -> None:
    """Have the kernel answer EIO whenever this thread, for the rest of its life, waits for the disc (seccomp(2))."""
    load, equals, give = 0x20, 0x15, 0x06  # BPF's LD|W|ABS, JMP|JEQ|K, RET|K
    lines = [
        _Instruction(load, 0, 0, 0),  # the call's number
        _Instruction(equals, 1, 0, FSYNC[0]),
        _Instruction(equals, 0, 1, FSYNC[1]),
        _Instruction(give, 0, 0, 0x00050000 | EIO),  # SECCOMP_RET_ERRNO
        _Instruction(give, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    ]
    program = _Program(len(lines), (_Instruction * len(lines))(*lines))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((38, 1, 0, 0, 0), (22, 2, ctypes.byref(program))):  # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "no filter of system calls")


def where_nothing_syncs(call: Callable[[], object]) -> Exception | None:
    """Call something in a thread whose syncs all fail; gives the error that it raised."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            refuse_to_sync()
            call()
        except Exception as error:  # noqa: BLE001 - it is for the test to judge
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


@pytest.mark.parametrize("what", PASSING)
def test_offers_do_not_wait_for_the_disc(ledger: Ledger, what: str) -> None:
    row = reserve(ledger)
    ledger.note(row.uuid, NINE, NOTE)  # what waits before leaves nothing of it behind
    assert where_nothing_syncs(lambda: PASSING[what](ledger, row)) is None
    before = ledger.count_by_phase()
    ledger.close()
    again = Ledger(str(ledger._engine.url))  # as if killed: all of it is there
    assert again.count_by_phase() == before
    again.close()


@pytest.mark.parametrize("before", [None, *PASSING])
@pytest.mark.parametrize("what", LASTING)
def test_what_a_job_hangs_on_waits_for_the_disc(ledger: Ledger, what: str, before: str | None) -> None:
    row, other = reserve(ledger), reserve(ledger)
    if before is not None:
        PASSING[before](ledger, other)
    phases = ledger.count_by_phase()
    error = where_nothing_syncs(lambda: LASTING[what](ledger, row))
    assert "disk I/O error" in str(error)
    assert ledger.count_by_phase() == phases
    if phases.get("OFFERED"):
        LASTING[what](ledger, row)  # with a disc that answers it goes on


def test_postgresql_waits_for_the_same(postgresql: Callable[[], str]) -> None:
    ledger = Ledger(postgresql())
    seen: list[str] = []

    @sa.event.listens_for(ledger._engine, "commit")
    def _(connection: sa.Connection) -> None:
        seen.append(str(connection.exec_driver_sql("SHOW synchronous_commit").scalar()))

    for operations, says in ((PASSING, "off"), (LASTING, "on")):
        for what, call in operations.items():
            row = reserve(ledger)
            seen.clear()
            call(ledger, row)
            assert (what, seen) == (what, [says])
    ledger.close()


@pytest.mark.parametrize("first", ["request", "accept"])
def test_a_ledger_goes_on_when_its_connections_were_cut(postgresql: Callable[[], str], first: str) -> None:
    url = postgresql()
    ledger = Ledger(url)
    row, other = reserve(ledger), reserve(ledger)
    administrator = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.exec_driver_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                                   "WHERE datname = current_database() AND pid <> pg_backend_pid()")  # fmt: skip
    administrator.dispose()
    with pytest.raises(Exception, match="connection"):
        (PASSING | LASTING)[first](ledger, other)
    LASTING["accept"](ledger, row)
    assert ledger.count_by_phase() == {"ACCEPTED": 1, "OFFERED": 1}
    ledger.close()
