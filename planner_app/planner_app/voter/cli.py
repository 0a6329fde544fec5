"""The command `caesar-vote`: from an image on the operator's disc to a catalogue beside it."""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
import yaml
from rich.console import Console
from rich.markup import escape

from planner_app.execution_broker.times import parse_duration, parse_interval
from planner_app.voter import show
from planner_app.voter.choose import DEFAULT_KEYS, METRICS, Key, Policy
from planner_app.voter.text import one_line

_T = TypeVar("_T")
DONE, JOB_FAILED, USAGE, NO_OFFER, NO_VOTER, CANCELLED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "NO_OFFER", "ASKED"}
_POLL_SECONDS = 0.5
_PATIENCE = 30.0
"""Seconds for a voter or planner that is being restarted to come back, once a job is on its way."""
_VOTE_TIMEOUT = 60.0
"""Far above the voter's own deadlines, which bound a vote."""

_EPILOG = f"""\
policies: {", ".join(Key)};
  several with commas count one after the other; what they leave open, {" and then ".join(DEFAULT_KEYS)} decide
exit status: {DONE} done; {JOB_FAILED} the job failed; {USAGE} wrong usage; {NO_OFFER} no platform can;
  {NO_VOTER} no voter; {CANCELLED} cancelled; {INTERRUPTED} interrupted, the job goes on
"""


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
        time.sleep(_POLL_SECONDS)


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


# --- the command line -----------------------------------------------------------------------------------


def _amount(text: str) -> dict[str, int]:
    match = re.fullmatch(r"(\d{1,6})(-(\d{1,6})?)?", text)
    if match is None or int(match[1]) < 1 or (match[3] and int(match[3]) < int(match[1])):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number, a range such as 1-4, or 2- for 2 or more")
    low = int(match[1])
    if match[2] is None:
        return {"min": low, "max": low}
    return {"min": low, "max": int(match[3])} if match[3] else {"min": low}


def _duration(text: str) -> str:
    try:
        parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
    return text


def _interval(text: str) -> str:
    try:
        parse_interval(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
    return text


def _policy(text: str) -> str:
    try:
        Policy.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _limit(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number from 0 on")
    return value


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="caesar-vote",
        description="Let the execution planners of a testbed compete for a job, and run it where the best offer is.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--testbed",
        metavar="NAME",
        default=os.environ.get("CAESAR_TESTBED") or "caesar",
        help="which testbed (default: $CAESAR_TESTBED, else caesar)",
    )
    common.add_argument("--json", action="store_true", help="machine-readable output only")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    wish = argparse.ArgumentParser(add_help=False)
    wish.add_argument("--app", default="aegean", help="the application (default: aegean)")
    wish.add_argument("--cores", type=_amount, metavar="N[-M]", help="cores: exactly N, N to M, or N- for N or more")
    wish.add_argument("--memory", type=_amount, metavar="N[-M]", help="memory in GiB, likewise")
    wish.add_argument("--duration", type=_duration, metavar="PT30M", help="how long it may run (ISO 8601)")
    wish.add_argument(
        "--start", type=_interval, metavar="FROM/TO", help="when it may start (ISO 8601 interval, with time zone)"
    )
    wish.add_argument("--policy", type=_policy, metavar="NAME", help="how to choose (below)")
    for kind in (Key.MONETARY, Key.ENERGY, Key.CARBON):
        wish.add_argument(f"--max-{kind}", type=_limit, metavar="X", help=f"{kind} cost of the whole job, at most")
    wish.add_argument("--min-performance", type=_limit, metavar="X", help="compute-performance, at least")
    wish.add_argument("--only", action="append", metavar="PLATFORM", help="ask this one only; may be repeated")
    wish.add_argument(
        "--option", action="append", metavar="WORD", help="a word for the application, as --option=--seedthr=6"
    )
    usual = {"epilog": _EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}

    run = verbs.add_parser("run", parents=[common, wish], help="vote, run, bring the outputs home", **usual)  # type: ignore[arg-type]
    run.add_argument("image", type=Path, metavar="IMAGE", help="the file to work on, such as image.fits")
    run.add_argument("--outdir", type=Path, help="where the outputs go (default: ./BALLOT)")
    run.add_argument("--no-wait", action="store_true", help="return when an offer is accepted")
    ask = verbs.add_parser("ask", parents=[common, wish], help="only show who would offer what", **usual)  # type: ignore[arg-type]
    ask.add_argument("image", type=Path, nargs="?", metavar="IMAGE", help="not needed to ask")

    listing = verbs.add_parser("ballots", parents=[common], help="the latest ballots")
    listing.add_argument("--limit", type=int, default=20, help="how many (default: 20)")
    for verb, text in (
        ("show", "one ballot: candidates, why, and what became of it"),
        ("follow", "wait for a ballot's job and bring the outputs home"),
        ("cancel", "cancel a ballot's job"),
        ("outputs", "bring the outputs home"),
    ):
        sub = verbs.add_parser(verb, parents=[common], help=text)
        sub.add_argument("id", metavar="BALLOT", help="its id, or the first digits of it")
        if verb in ("follow", "outputs"):
            sub.add_argument("--outdir", type=Path, help="where the outputs go (default: ./BALLOT)")
    verbs.add_parser("platforms", parents=[common], help="what each platform has and has free")
    return parser


def question(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make of the command line what the voter is asked."""
    costs = {kind.value: getattr(arguments, f"max_{kind}") for kind in (Key.MONETARY, Key.ENERGY, Key.CARBON)}
    body: dict[str, Any] = {
        "id": str(uuid4()),
        "app": arguments.app,
        "accept": arguments.verb == "run",
        "cores": arguments.cores,
        "memory_gib": arguments.memory,
        "duration": arguments.duration,
        "start": arguments.start,
        "policy": arguments.policy,
        "only": arguments.only,
        "options": arguments.option,
        "max_costs": {kind: most for kind, most in costs.items() if most is not None},
    }
    if arguments.min_performance is not None:
        body["min_metrics"] = {METRICS[Key.PERFORMANCE]: arguments.min_performance}
    return {name: value for name, value in body.items() if value is not None}


class Command:
    """One run of the command: the voter, and the two streams."""

    def __init__(self, voter: VoterClient, as_json: bool, out: IO[str], err: IO[str]) -> None:
        self.voter = voter
        self.as_json = as_json
        # Where there is no terminal there is nobody whose window is narrow.
        width = None if out.isatty() or os.environ.get("COLUMNS") else 120
        self.out = Console(file=out, width=width, highlight=False)
        self.err = Console(file=err, highlight=False)

    def result(self, document: Any) -> None:
        """Write what a program is to read."""
        self.out.file.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")

    def say(self, text: str) -> None:
        """Tell people how it goes, on the error stream."""
        self.err.print(escape(text), soft_wrap=True)

    # --- verbs ---

    def ask(self, arguments: argparse.Namespace) -> int:
        """Ask only."""
        ballot = self.voter.call("POST", "/ballots", json=question(arguments))
        if self.as_json:
            self.result(ballot)
        else:
            show.demand(self.out, ballot)
            show.candidates(self.out, ballot)
            show.outcome(self.out, ballot)
        return NO_OFFER if ballot["state"] == "NO_OFFER" else DONE

    def run(self, arguments: argparse.Namespace) -> int:
        """Upload, vote, wait, bring home."""
        body = question(arguments) | {"upload": self.upload(arguments.image)}
        # The ballot's id is ours: asking again after a lost answer gives the same ballot.
        ballot = patiently(lambda: self.voter.call("POST", "/ballots", json=body), self.say)
        while ballot["state"] in ("VOTING", "ACCEPTING"):
            time.sleep(_POLL_SECONDS)
            ballot = self.look(ballot)
        if not self.as_json:
            show.demand(self.out, ballot)
            show.candidates(self.out, ballot)
            show.outcome(self.out, ballot)
        if ballot["state"] == "NO_OFFER" or arguments.no_wait:
            if self.as_json:
                self.result(ballot)
            return NO_OFFER if ballot["state"] == "NO_OFFER" else DONE
        return self.finish(ballot, arguments.outdir)

    def follow(self, arguments: argparse.Namespace) -> int:
        """Wait for a ballot that was left alone, then bring home."""
        return self.finish(self.find(arguments), arguments.outdir)

    def show(self, arguments: argparse.Namespace) -> int:
        """Show one ballot."""
        ballot = self.find(arguments)
        if self.as_json:
            self.result(ballot)
        else:
            show.demand(self.out, ballot)
            show.candidates(self.out, ballot)
            show.history(self.out, ballot)
            show.outcome(self.out, ballot)
        return DONE

    def ballots(self, arguments: argparse.Namespace) -> int:
        """List the latest."""
        found = self.voter.call("GET", "/ballots", params={"limit": arguments.limit})
        if self.as_json:
            self.result(found)
        else:
            show.ballots(self.out, found["ballots"])
        return DONE

    def cancel(self, arguments: argparse.Namespace) -> int:
        """Cancel a job."""
        ballot = self.voter.call("POST", f"/ballots/{quote(arguments.id, safe='')}", json={"phase": "CANCELLED"})
        if self.as_json:
            self.result(ballot)
        else:
            show.outcome(self.out, ballot)
        return DONE

    def outputs(self, arguments: argparse.Namespace) -> int:
        """Bring the outputs home."""
        ballot = self.find(arguments)
        brought = self.bring_home(ballot, arguments.outdir)
        if self.as_json:
            self.result(brought)
        return DONE

    def platforms(self, _arguments: argparse.Namespace) -> int:
        """Show what the platforms have."""
        found = self.voter.call("GET", "/platforms")
        if self.as_json:
            self.result(found)
        else:
            show.platforms(self.out, found["platforms"])
        return DONE

    # --- parts ---

    def find(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """Fetch a ballot by its id or the beginning of it."""
        found: dict[str, Any] = self.voter.call("GET", f"/ballots/{quote(arguments.id, safe='')}")
        return found

    def upload(self, image: Path) -> str:
        """Send the file; give its id."""
        try:
            size = image.stat().st_size
            with image.open("rb") as file:
                self.say(f"uploading {image.name} ({_bytes(size)})")
                stored = self.voter.call(
                    "POST",
                    "/uploads",
                    params={"name": image.name},
                    content=iter(lambda: file.read(1 << 18), b""),
                    headers={"Content-Length": str(size)},
                )
        except OSError as error:
            raise Trouble(f"{image}: {error.strerror}", USAGE) from None
        return str(stored["uuid"])

    def finish(self, ballot: dict[str, Any], outdir: Path | None) -> int:
        """Wait until a ballot has ended, then bring home what there is and say how it went."""
        try:
            ballot = self.wait(ballot)
        except KeyboardInterrupt:
            return self.interrupted(ballot)
        brought: dict[str, Any] = {}
        if ballot["state"] == "COMPLETED":
            brought = self.bring_home(ballot, outdir)
        if self.as_json:
            self.result(ballot | brought)
        elif ballot["state"] == "FAILED":
            self.tail(ballot)
            show.outcome(self.out, ballot)
        elif ballot["state"] != "COMPLETED":
            show.outcome(self.out, ballot)
        return {"COMPLETED": DONE, "CANCELLED": CANCELLED, "NO_OFFER": NO_OFFER, "ASKED": DONE}.get(
            ballot["state"], JOB_FAILED
        )

    def wait(self, ballot: dict[str, Any]) -> dict[str, Any]:
        """Poll until the ballot has ended; each new phase is told."""
        began, told = time.monotonic(), ""
        lively = self.err.is_terminal and not self.as_json
        with self.err.status("waiting") if lively else nullcontext() as status:
            while True:
                line = " ".join(filter(None, [ballot["phase"] or ballot["state"], ballot.get("trouble", "")]))
                if line != told:
                    where = f" on {ballot['winner']['planner']}" if ballot["winner"] else ""
                    self.say(f"{time.monotonic() - began:5.1f} s  {line}{where}")
                    told = line
                if ballot["state"] in _ENDED:
                    return ballot
                if status is not None:
                    status.update(f"{escape(line)}, Ctrl-C to leave or cancel")
                time.sleep(_POLL_SECONDS)
                ballot = self.look(ballot)

    def look(self, ballot: Mapping[str, Any]) -> dict[str, Any]:
        """Fetch a ballot as it is now."""
        seen: dict[str, Any] = patiently(lambda: self.voter.call("GET", f"/ballots/{ballot['id']}"), self.say)
        return seen

    def interrupted(self, ballot: Mapping[str, Any]) -> int:
        """Leave the job alone, or cancel it where somebody at a terminal wants that."""
        short = ballot["id"][:8]
        if sys.stdin.isatty() and self.err.is_terminal:
            try:
                answer = self.err.input("\ncancel the job? [y/N] ", markup=False)
            except (EOFError, KeyboardInterrupt):
                answer = ""
            if answer.strip().lower() in ("y", "yes"):
                self.voter.call("POST", f"/ballots/{ballot['id']}", json={"phase": "CANCELLED"})
                self.say("cancelled")
                return CANCELLED
        self.say(f"the job goes on; `caesar-vote follow {short}` waits for it, `caesar-vote cancel {short}` ends it")
        return INTERRUPTED

    def bring_home(self, ballot: Mapping[str, Any], outdir: Path | None) -> dict[str, Any]:
        """Fetch all outputs; say where they are and how many sources the catalogue has."""
        directory = outdir or Path(ballot["id"][:8])
        listed = patiently(lambda: self.voter.call("GET", f"/ballots/{ballot['id']}/outputs"), self.say)
        files: list[str] = []
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for name in [str(row["name"]) for row in listed]:
                target = inside(directory, name)
                if target is None:
                    self.say(f"left out {one_line(name)!r}: no name for a file here")
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                path = f"/ballots/{ballot['id']}/outputs/{quote(name)}"
                patiently(partial(self.voter.download, path, target), self.say)
                files.append(name)
        except OSError as error:
            raise Trouble(f"{error.filename or directory}: {error.strerror}", USAGE) from None
        found = count_sources(directory, files)
        if not self.as_json:
            self.out.print(f"{len(files)} files in {escape(str(directory))}", soft_wrap=True)
            if found is not None:
                self.out.print(
                    f"[bold]{found} sources found[/bold] in {escape(_catalogue(files) or '')}", soft_wrap=True
                )
        return {"directory": str(directory), "outputs": files, "sources": found}

    def tail(self, ballot: Mapping[str, Any]) -> None:
        """Show the end of what a failed job printed."""
        try:
            lines = self.voter.text(f"/ballots/{ballot['id']}/stdout").splitlines()[-10:]
        except Trouble:
            return
        for line in lines:
            self.say(f"  | {one_line(line)}")


def inside(directory: Path, name: str) -> Path | None:
    """Tell where an output goes; None for a name that leads out of the directory or hides."""
    parts = PurePosixPath(name).parts
    if not parts or any(part in ("..", "/") or part.startswith(".") or not part.isprintable() for part in parts):
        return None
    return directory.joinpath(*parts)


def _catalogue(files: Sequence[str]) -> str | None:
    return next((name for name in sorted(files) if re.fullmatch(r"catalog-.*\.json", name)), None)


def count_sources(directory: Path, files: Sequence[str]) -> int | None:
    """Count the sources in the catalogue among the outputs; None where there is none."""
    name = _catalogue(files)
    if name is None:
        return None
    try:
        return len(json.loads((directory / name).read_text(encoding="utf-8"))["sources"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _bytes(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    for unit in ("kB", "MB"):
        size_in_unit = size / 1000
        if size_in_unit < 1000:
            return f"{size_in_unit:.0f} {unit}"
        size = round(size_in_unit)
    return f"{size / 1000:.1f} GB"


def execute(arguments: argparse.Namespace, out: IO[str], err: IO[str]) -> int:
    """Run one command and return the exit status; troubles are told on `err`."""
    try:
        command = Command(connect(arguments.testbed, os.environ), arguments.json, out, err)
        status: int = getattr(command, arguments.verb)(arguments)
    except Trouble as trouble:
        err.write(f"caesar-vote: {trouble}\n")
        return trouble.status
    return status


def main() -> NoReturn:
    """Run the command line."""
    arguments = make_parser().parse_args()
    try:
        sys.exit(execute(arguments, sys.stdout, sys.stderr))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has enough; nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(DONE)


if __name__ == "__main__":
    main()
