"""The voter as a program on the operator's side reaches it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

from planner_app.voter.text import one_line

_T = TypeVar("_T")
DONE, JOB_FAILED, USAGE, NO_OFFER, NO_VOTER, CANCELLED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
"""Exit statuses of the command."""
POLL_SECONDS = 0.5
_PATIENCE = 30.0
"""Seconds for a voter or planner that is being restarted to come back, once a job is on its way."""
_VOTE_TIMEOUT = 60.0
"""Far above the voter's own deadlines, which bound a vote."""


class Trouble(Exception):
    """Something that ends the command: one line for people, and the exit status."""

    def __init__(self, message: str, status: int = NO_VOTER, *, passing: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.passing = passing
        """Somebody did not answer, and may do so in a moment."""


class VoterClient:
    """The voter, as the operator's token reaches it."""

    def __init__(self, url: str, token: str, next_step: str) -> None:
        self.url = url
        self._next_step = next_step
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=_VOTE_TIMEOUT, trust_env=False
        )

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Make a call and give the decoded reply. Raises Trouble."""
        with self._told():
            reply = self._http.request(method, path, **arguments)
        self._check(reply)
        try:
            return reply.json()
        except ValueError:
            raise Trouble(f"what answers at {self.url} is no voter; {self._next_step}") from None

    def text(self, path: str) -> str:
        """Fetch a text. Raises Trouble."""
        with self._told():
            reply = self._http.get(path)
        self._check(reply)
        return reply.text

    def download(self, path: str, target: Path) -> int:
        """Fetch a file; it gets its name when it is whole. Returns its size. Raises Trouble."""
        unfinished = target.with_name(f".{target.name}.part")
        try:
            with self._told(), self._http.stream("GET", path) as reply:
                if reply.status_code != 200:
                    reply.read()
                    self._check(reply)
                with unfinished.open("wb") as file:
                    for part in reply.iter_bytes():
                        file.write(part)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
        return target.stat().st_size

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException:
            told = f"the voter at {self.url} does not answer in time; {self._next_step}"
            raise Trouble(told, passing=True) from None
        except httpx.HTTPError as error:
            told = f"the voter at {self.url} does not answer: {error}; {self._next_step}"
            raise Trouble(told, passing=True) from None

    def _check(self, reply: httpx.Response) -> None:
        if reply.status_code < 400:
            return
        if reply.status_code == 401:
            raise Trouble(f"the voter at {self.url} does not know the token; {self._next_step}")
        try:
            detail = str(reply.json()["detail"])
        except (ValueError, KeyError, TypeError):
            detail = reply.reason_phrase
        status = USAGE if reply.status_code < 500 else NO_VOTER
        raise Trouble(one_line(detail), status, passing=reply.status_code == 502)


def patiently(work: Callable[[], _T], say: Callable[[str], None]) -> _T:
    """Do something again while somebody is being restarted. Raises the Trouble that does not pass."""
    until, told = time.monotonic() + _PATIENCE, False
    while True:
        try:
            return work()
        except Trouble as trouble:
            if not trouble.passing or time.monotonic() > until:
                raise
            if not told:
                say(f"{trouble}; trying again")
            told = True
        time.sleep(POLL_SECONDS)


def state_file(testbed: str, environment: Mapping[str, str]) -> Path:
    """Tell where a testbed leaves the voter's address and token."""
    home = environment.get("XDG_STATE_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".local/state"
    return Path(home) / "caesar-testbed" / testbed / "voter.yml"


def connect(testbed: str, environment: Mapping[str, str]) -> VoterClient:
    """Find the voter of a testbed. Raises Trouble that names the next step."""
    path = state_file(testbed, environment)
    up = "make testbed" if testbed == "caesar" else f"ansible-playbook site.yml -e testbed_name={testbed}"
    try:
        known = yaml.safe_load(path.read_text(encoding="utf-8"))
        return VoterClient(str(known["url"]), str(known["token"]), f"is the testbed up? run `{up}`")
    except FileNotFoundError:
        others = sorted(found.parent.name for found in path.parents[1].glob("*/voter.yml"))
        hint = f" (there is {', '.join(others)}: --testbed)" if others else ""
        raise Trouble(f"no testbed {testbed}: {path} is not there{hint}; run `{up}`") from None
    except PermissionError:
        raise Trouble(f"{path} may not be read by you; the testbed belongs to another user") from None
    except (OSError, yaml.YAMLError, KeyError, TypeError, httpx.InvalidURL):
        raise Trouble(f"{path} can not be understood; run `{up}` to write it anew") from None
