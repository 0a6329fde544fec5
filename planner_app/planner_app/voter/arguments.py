"""The command line of `caesar-vote`, and what it asks the voter."""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from planner_app.execution_broker.times import parse_duration, parse_interval
from planner_app.voter.client import CANCELLED, DONE, INTERRUPTED, JOB_FAILED, NO_OFFER, NO_VOTER, USAGE
from planner_app.voter.policy import DEFAULT_KEYS, METRICS, NAMED, Key

_EPILOG = f"""\
policies: {", ".join([*NAMED, *Key])}, and what the inventory names;
  several with commas count one after the other; what they leave open, {" and then ".join(DEFAULT_KEYS)} decide;
  2*monetary/0.5+carbon/40 is a weighted sum, of the cost in units of 0.5 and the carbon in units of 40
exit status: {DONE} done; {JOB_FAILED} the job failed; {USAGE} wrong usage; {NO_OFFER} no platform can;
  {NO_VOTER} no voter; {CANCELLED} cancelled; {INTERRUPTED} interrupted, the job goes on
"""


def _amount(text: str) -> dict[str, int]:
    match = re.fullmatch(r"(\d{1,6})(-(\d{1,6})?)?", text)
    if match is None or int(match[1]) < 1 or (match[3] and int(match[3]) < int(match[1])):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number, a range such as 1-4, or 2- for 2 or more")
    low = int(match[1])
    if match[2] is None:
        return {"min": low, "max": low}
    return {"min": low, "max": int(match[3])} if match[3] else {"min": low}


def _checked(parse: Callable[[str], object]) -> Callable[[str], str]:
    """Make a type that keeps a text as it is, where it can be parsed."""

    def check(text: str) -> str:
        try:
            parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
        return text

    return check


_duration = _checked(parse_duration)
_interval = _checked(parse_interval)


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
    wish.add_argument("--policy", metavar="NAME", help="how to choose (below)")
    wish.add_argument("--user", metavar="NAME", help="whose budget it is (default: yours)")
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
        ("why", "why who won: what each candidate counts, what each planner answered, and in what time"),
        ("follow", "wait for a ballot's job and bring the outputs home"),
        ("cancel", "cancel a ballot's job"),
        ("outputs", "bring the outputs home"),
    ):
        sub = verbs.add_parser(verb, parents=[common], help=text)
        sub.add_argument("id", metavar="BALLOT", help="its id, or the first digits of it; or a trace id")
        if verb in ("follow", "outputs"):
            sub.add_argument("--outdir", type=Path, help="where the outputs go (default: ./BALLOT)")
    verbs.add_parser("platforms", parents=[common], help="what each platform has and has free")
    verbs.add_parser("page", parents=[common], help="a link to the voter's web page: platforms, ballots, jobs")
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
        "user": arguments.user,
        "only": arguments.only,
        "options": arguments.option,
        "max_costs": {kind: most for kind, most in costs.items() if most is not None},
    }
    if arguments.min_performance is not None:
        body["min_metrics"] = {METRICS[Key.PERFORMANCE]: arguments.min_performance}
    return {name: value for name, value in body.items() if value is not None}
