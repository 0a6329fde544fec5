"""The command `caesar-vote`: from an image on the operator's disc to a catalogue beside it."""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn
from urllib.parse import quote

from rich.console import Console
from rich.markup import escape

from planner_app.voter import show
from planner_app.voter.arguments import make_parser, question
from planner_app.voter.client import (
    CANCELLED,
    DONE,
    INTERRUPTED,
    JOB_FAILED,
    NO_OFFER,
    POLL_SECONDS,
    USAGE,
    Trouble,
    VoterClient,
    connect,
    patiently,
)
from planner_app.voter.explain import explain
from planner_app.voter.outputs import catalogue, count_sources, in_bytes, inside
from planner_app.voter.text import one_line

_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "NO_OFFER", "ASKED"}


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
            time.sleep(POLL_SECONDS)
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

    def why(self, arguments: argparse.Namespace) -> int:
        """Explain one ballot."""
        explained = explain(self.find(arguments))
        if self.as_json:
            self.result(explained)
        else:
            show.why(self.out, explained)
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

    def page(self, _arguments: argparse.Namespace) -> int:
        """Give a link to the voter's pages."""
        link = self.voter.call("POST", "/logins")
        if self.as_json:
            self.result(link)
        else:
            self.out.print(escape(link["url"]), soft_wrap=True)
            self.say(f"opens the voter's pages in one browser, once, within {link['seconds'] // 60} minutes")
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
                self.say(f"uploading {image.name} ({in_bytes(size)})")
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
                time.sleep(POLL_SECONDS)
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
                    f"[bold]{found} sources found[/bold] in {escape(catalogue(files) or '')}", soft_wrap=True
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
