"""Run a long command on the controller and show that it moves."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

TAIL_LINES = 40
LINE_WIDTH = 100
# What a stopped command gets to put things in order, in seconds.
STOP_GRACE = 10.0

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def clock(seconds: float) -> str:
    """Say a duration in seconds as people do: `9s`, `1m05s`, `1h02m`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def shorten(line: str, width: int = LINE_WIDTH) -> str:
    """Cut a line of output to `width` characters, the end marked."""
    return line if len(line) <= width else line[: width - 3] + "..."


class Lines:
    """Split a stream of bytes into clean lines; a carriage return ends one too (progress bars)."""

    def __init__(self) -> None:
        self._rest = b""
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def feed(self, data: bytes) -> None:
        """Take bytes as they come."""
        *whole, self._rest = re.split(rb"[\r\n]+", self._rest + data)
        self._keep(whole)

    def close(self) -> None:
        """Take what is left without a line end."""
        self._keep([self._rest])
        self._rest = b""

    def _keep(self, raw: list[bytes]) -> None:
        for line in raw:
            text = _ESCAPES.sub("", line.decode("utf-8", "replace").replace("\t", " ")).rstrip()
            if text.strip():
                self.tail.append(text)

    @property
    def last(self) -> str:
        """The last line that says something, or nothing."""
        return self.tail[-1].strip() if self.tail else ""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, seconds it took, the end of its output."""

    rc: int
    seconds: float
    tail: list[str]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the command and all that it started: first politely, after a grace by force."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(STOP_GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    except ProcessLookupError:
        process.wait()


class _Held:
    """The command, and a signal that came while it was being started."""

    process: subprocess.Popen[bytes] | None = None
    signal: int | None = None


@contextmanager
def _stopped_with_us(held: _Held) -> Iterator[None]:
    """Stop the command where Ansible stops this worker (Ctrl-C), or a task's timeout strikes.

    Entered before the command starts: a signal between its start and the handlers would leave it running.
    """
    before: dict[int, Any] = {}

    def handler(number: int, frame: FrameType | None) -> None:
        if held.process is None:
            held.signal = number
            return
        _stop(held.process)
        earlier = before[number]
        if callable(earlier):
            earlier(number, frame)
        else:
            raise KeyboardInterrupt

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        before[number] = signal.signal(number, handler)
    try:
        yield
    except BaseException:
        if held.process is not None:
            _stop(held.process)
        raise
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def run(
    argv: list[str],
    report: Callable[[str], None],
    *,
    every: float = 10.0,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    nice: int = 0,
) -> Outcome:
    """Run `argv`, hand `report` a line every `every` seconds, and say how it ended.

    The command is its own process group, so that stopping it stops its children. Its output, both streams
    in one, goes to `log`; only the end of it is kept in memory.

    Raises OSError where the program cannot be started or the log cannot be written.
    """
    lines = Lines()
    sink: IO[bytes] | None = None
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        sink = log.open("wb")
    command = ["nice", "-n", str(nice), *argv] if nice else argv
    start = time.monotonic()
    held = _Held()
    try:
        with (
            _stopped_with_us(held),
            subprocess.Popen(
                command,
                cwd=cwd,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            held.process = process
            if held.signal is not None:
                _stop(process)
                raise KeyboardInterrupt
            if process.stdout is None:  # cannot be: a pipe was asked for
                raise OSError("no pipe to the command")
            with selectors.DefaultSelector() as selector:
                descriptor = process.stdout.fileno()
                selector.register(descriptor, selectors.EVENT_READ)
                due = start + every
                while True:
                    if selector.select(max(0.0, due - time.monotonic())):
                        data = os.read(descriptor, 65536)
                        if not data:
                            break
                        lines.feed(data)
                        if sink is not None:
                            sink.write(data)
                            sink.flush()
                    if time.monotonic() >= due:
                        report(f"{clock(time.monotonic() - start):>7}  {shorten(lines.last)}".rstrip())
                        due = time.monotonic() + every
                process.wait()
    finally:
        if sink is not None:
            sink.close()
    lines.close()
    return Outcome(process.returncode, time.monotonic() - start, list(lines.tail))


class ActionModule(ActionBase):  # type: ignore[misc]
    """See library/long_command.py for the options."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "argv": {"type": "list", "elements": "str"},
                "script": {"type": "str"},
                "message": {"type": "str", "required": True},
                "creates": {"type": "path"},
                "chdir": {"type": "path"},
                "log": {"type": "path"},
                "every": {"type": "float", "default": 10.0},
                "nice": {"type": "int", "default": 0},
            },
            mutually_exclusive=[["argv", "script"]],
            required_one_of=[["argv", "script"]],
        )
        creates = Path(args["creates"]) if args["creates"] else None
        if creates is not None and creates.exists():
            return {**result, "changed": False, "msg": f"{creates} exists"}
        if self._task.check_mode:
            return {**result, "changed": True, "msg": f"would run: {args['message']}"}

        argv = args["argv"] or ["bash", "-euo", "pipefail", "-c", args["script"]]
        display = Display()
        # Ansible shows a task's name with its first result, so this stands above it, and must speak for itself.
        display.display(f"\n{args['message']}")
        try:
            outcome = run(
                argv,
                lambda line: display.display(f"    {line}"),
                every=args["every"],
                cwd=Path(args["chdir"]) if args["chdir"] else None,
                environment=self._environment(),
                log=Path(args["log"]) if args["log"] else None,
                nice=args["nice"],
            )
        except OSError as error:
            raise AnsibleActionFail(f"{argv[0]} could not be run: {error}") from error

        result |= {"changed": True, "rc": outcome.rc, "stdout_lines": outcome.tail}
        result["stdout"] = "\n".join(outcome.tail)
        result["elapsed"] = round(outcome.seconds, 1)
        where = f" (all of its output is in {args['log']})" if args["log"] else ""
        program = argv[0] if args["argv"] else "the script"
        if outcome.rc != 0:
            result["failed"] = True
            said = f": {outcome.tail[-1].strip()}" if outcome.tail else ""
            result["msg"] = f"{program} ended with {outcome.rc} after {clock(outcome.seconds)}{said}{where}"
        elif creates is not None and not creates.exists():
            result["failed"] = True
            result["msg"] = f"{program} ended well, but did not make {creates}{where}"
        else:
            display.display(f"    done in {clock(outcome.seconds)}")
            # What went well need not be read again: the log has it.
            result["stdout_lines"] = outcome.tail[-1:]
            result["stdout"] = "\n".join(outcome.tail[-1:])
        return result

    def _environment(self) -> dict[str, str]:
        """The task's `environment:`, as ActionBase would give it to a module."""
        merged: dict[str, str] = {}
        for part in self._task.environment or []:
            if part:
                merged |= {key: str(value) for key, value in self._templar.template(part).items()}
        return merged
