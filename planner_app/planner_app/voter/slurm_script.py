"""Reading what caesar-rest submits: a batch script of one known shape, and no other. Pure.

The script is never run. It is `singularity run` of one image with one input and one output directory, and what is
to run where is told by it; so all of it must be understood, and what is not is refused with the reason.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from planner_app.voter.text import one_line

_MOUNT = "/data"
_PLAIN = re.compile(r"[A-Za-z0-9 ._/:=,@%+'-]*")
"""All that occurs in the scripts; a shell gives no other meaning to any of it."""
_WORD = re.compile(r"(?:[^ ']|'[^']*')+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,254}")
_JOB_FIELDS = {"name", "environment", "current_working_directory", "cpus_per_task", "tasks"}
_FLAGS = {"--containall", "--no-home"}
_VARIABLES = {"CHANGE_RUNUSER", "JOB_DIR", "JOB_OPTIONS", "JOB_OUTDIR"}
_MOST_CORES = 1024


class Refused(ValueError):
    """What was submitted is not understood or not possible; the message says what of it."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What a script means."""

    name: str
    user: str
    """Whose job it is, which only the paths tell."""
    image: str
    """The path of the image as caesar-rest has it."""
    cores: int
    options: tuple[str, ...]
    """Words for the application, the input's path being that in the container."""
    input_path: str
    directory: str
    """Where caesar-rest looks for the outputs."""


@dataclass(frozen=True, slots=True)
class _Command:
    image: str
    binds: Mapping[str, str]
    """Where it is in the container, by where it is on the cluster."""
    variables: Mapping[str, str]


def read_submission(body: Any, data: PurePosixPath, jobs: PurePosixPath) -> Submission:
    """Understand the body of a submission. `data` and `jobs` are caesar-rest's directories on the cluster.

    Raises Refused.
    """
    if not isinstance(body, dict) or not isinstance(body.get("script"), str) or not isinstance(body.get("job"), dict):
        raise Refused("the body must have a script and a job")
    job = body["job"]
    if unknown := sorted(set(job) - _JOB_FIELDS):
        raise Refused(f"job.{one_line(unknown[0], 60)} is not known here; known are {', '.join(sorted(_JOB_FIELDS))}")
    name = job.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refused("job.name must be of letters, digits, dot, dash and underscore")
    cores, tasks = _count(job, "cpus_per_task"), _count(job, "tasks")
    command = _read_script(body["script"])
    if tasks != 1:
        raise Refused(f"job.tasks is {tasks}: jobs here have one task")

    user, outputs = _bound(command, jobs)
    if outputs != f"{jobs}/{user}/job_{name}":
        raise Refused(f"the outputs must go to {jobs}/{{user}}/job_{name}, not to {one_line(outputs, 200)}")
    owner, source = _bound(command, data)
    if owner != user:
        raise Refused(f"the input is {owner}'s and the job {user}'s")
    if len(command.binds) != 2:
        raise Refused("exactly two things are bound, the outputs' directory and the input")
    if command.variables.get("JOB_OUTDIR") != command.binds[outputs]:
        raise Refused("JOB_OUTDIR must be where the outputs' directory is bound to")
    options = _options(command, command.binds[source], source.rpartition("/")[2])
    for word in options:
        if match := re.fullmatch(r"--ncores=(\d{1,4})", word):
            cores = max(cores, int(match[1]))
    if not 1 <= cores <= _MOST_CORES:
        raise Refused(f"{cores} cores are asked, from 1 to {_MOST_CORES} can be")
    return Submission(name, user, command.image, cores, options, source, outputs)


def _count(job: Mapping[str, Any], field: str) -> int:
    number = job.get(field, 1)
    if type(number) is not int or number < 1:
        raise Refused(f"job.{field} must be a whole number from 1 on")
    return number


def _read_script(script: str) -> _Command:
    lines = [line.strip() for line in script.split("\n") if line.strip()]
    if not lines or lines[0] != "#!/bin/bash":
        raise Refused("the script must begin with #!/bin/bash")
    commands = [line for line in lines[1:] if not re.fullmatch(r"sleep \d{1,4}", line)]
    if len(commands) != 1:
        raise Refused(f"the script must have one command, and it has {len(commands)}")
    (line,) = commands
    plain = _PLAIN.match(line)
    if plain is None or plain.end() != len(line):
        raise Refused(f"the script has a {line[plain.end() if plain else 0]!r}, which it can not have here")
    words = split_words(line)
    if words[0] == "mpirun":
        # One job is one container here, on Kubernetes too: nothing would start the other processes and join them.
        raise Refused(
            "the script runs several processes with mpirun, and jobs here are one: ask for nproc 1, and for threads"
        )
    if words[:2] != ["singularity", "run"]:
        raise Refused("the script's command must be singularity run")
    return _read_command(words[2:])


def split_words(line: str) -> list[str]:
    """Split a line of plain characters as a shell does, of which only blanks and single quotes mean anything there.

    Raises Refused.
    """
    # shlex does the same, in a millisecond a line.
    if line.count("'") % 2:
        raise Refused("the script has a quote without an end")
    return [word.replace("'", "") for word in _WORD.findall(line)]


def _read_command(words: list[str]) -> _Command:
    binds: dict[str, str] = {}
    variables: dict[str, str] = {}
    seen: set[str] = set()
    rest = list(words)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option in _FLAGS:
            if option in seen:
                raise Refused(f"{option} comes twice")
            seen.add(option)
            continue
        if option not in ("--scratch", "-B", "--env"):
            raise Refused(f"singularity's option {one_line(option, 60)} is not known here")
        if not rest:
            raise Refused(f"{option} has no value")
        value = rest.pop(0)
        if option == "--scratch":
            continue  # there is always room to work in
        name, sign, right = value.partition(":" if option == "-B" else "=")
        if not sign:
            raise Refused(f"{option} {one_line(value, 100)} must have two parts")
        into = binds if option == "-B" else variables
        if option == "--env" and name not in _VARIABLES:
            raise Refused(f"the variable {one_line(name, 60)} is not known here")
        if name in into:
            raise Refused(f"{option} {one_line(name, 100)} comes twice")
        into[name] = right
    if missing := sorted(_FLAGS - seen):
        raise Refused(f"{missing[0]} is missing")
    if len(rest) != 1:
        raise Refused(f"one image must come last, and {len(rest)} words do")
    return _Command(rest[0], binds, variables)


def _bound(command: _Command, root: PurePosixPath) -> tuple[str, str]:
    """Find what is bound from below a directory: the user and the whole path."""
    # As text, which takes a tenth of the time of paths: only those that are written plainly get past the names below.
    below = f"{root}/"
    found = [path for path in command.binds if path.startswith(below)]
    if len(found) != 1:
        raise Refused(f"one thing must be bound from below {root}, and {len(found)} are")
    (path,) = found
    parts = path.removeprefix(below).split("/")
    if len(parts) != 2:
        raise Refused(f"{one_line(path, 200)} must be {root}/USER/NAME")
    if not _USER.fullmatch(parts[0]) or not _NAME.fullmatch(parts[1]):
        raise Refused(f"{one_line(path, 200)} has a name that is none")
    return parts[0], path


def _options(command: _Command, inside: str, name: str) -> tuple[str, ...]:
    """Give the application's words, with the input where the container has it."""
    words = command.variables.get("JOB_OPTIONS", "").split()
    found = 0
    for index, word in enumerate(words):
        option, sign, value = word.partition("=")
        if not option.startswith("--"):
            raise Refused(f"JOB_OPTIONS has {one_line(word, 60)!r}, which is no option")
        if sign and value == inside:
            words[index] = f"{option}={_MOUNT}/{name}"
            found += 1
    if found != 1:
        raise Refused(f"JOB_OPTIONS must name the input {one_line(inside, 200)} once, and does so {found} times")
    return tuple(words)
