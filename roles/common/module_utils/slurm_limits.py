"""Limits of Slurm accounts in one notation: as people write them, as sacctmgr prints them and takes them. Pure.

Limits are flat mappings from sacctmgr's own words to whole numbers, `{"GrpTRES=cpu": 8, "GrpTRES=mem": 32768,
"GrpJobs": 4, "MaxWall": 60}`: memory in MiB, walltime in minutes, counts otherwise. A key that is absent means
that there is no limit. This form is the same whatever notation sacctmgr printed or the operator wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

#: What sacctmgr may call a name without changing it (it lower-cases account names silently).
NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
TRES = re.compile(r"cpu|mem|node|billing|energy|vmem|pages|(gres|license|bb|fs)/[A-Za-z0-9_:.-]+")
#: Slurm keeps counts in 32 bits and takes the last two values for "none" and "unlimited".
LARGEST = 2**31 - 1

#: Columns of `show assoc`, the words of `modify ... set` and of load files for the same limit, and what it holds.
#: All limits that Slurm 22.05 to 24.11 have on associations, so that a limit somebody else set is seen too.
COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("GrpTRES", "GrpTRES", "GrpTRES", "tres"),
    ("GrpTRESMins", "GrpTRESMins", "GrpTRESMins", "tres"),
    ("GrpTRESRunMins", "GrpTRESRunMins", "GrpTRESRunMins", "tres"),
    ("GrpJobs", "GrpJobs", "GrpJobs", "count"),
    ("GrpJobsAccrue", "GrpJobsAccrue", "GrpJobsAccrue", "count"),
    ("GrpSubmit", "GrpSubmitJobs", "GrpSubmitJobs", "count"),
    ("GrpWall", "GrpWall", "GrpWall", "minutes"),
    ("MaxTRES", "MaxTRESPerJob", "MaxTRESPerJob", "tres"),
    ("MaxTRESPerNode", "MaxTRESPerNode", "MaxTRESPerNode", "tres"),
    ("MaxTRESMins", "MaxTRESMinsPerJob", "MaxTRESMinsPerJob", "tres"),
    ("MaxJobs", "MaxJobs", "MaxJobs", "count"),
    ("MaxJobsAccrue", "MaxJobsAccrue", "MaxJobsAccrue", "count"),
    ("MaxSubmit", "MaxSubmitJobs", "MaxSubmitJobs", "count"),
    ("MaxWall", "MaxWall", "MaxWallDurationPerJob", "minutes"),
)
WORDS: Mapping[str, str] = {word: kind for _, word, _, kind in COLUMNS}
LOAD_WORDS: Mapping[str, str] = {word: load for _, word, load, _ in COLUMNS}

Limits = Mapping[str, int]


class Invalid(ValueError):
    """A value that Slurm would refuse or, worse, misread; the text names it and says what would be right."""


# --- Values as people write them -------------------------------------------------------------------------------


def whole(where: str, value: Any) -> int:
    """Give a count above zero that Slurm can keep; text, fractions and negative numbers are refused."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST:
        raise Invalid(f"{where} is {value!r}: give a whole number from 1 to {LARGEST}")
    return value


def memory_mib(where: str, value: Any) -> int:
    """Give MiB of a number of MiB, or of a text of a whole number and one of K, M, G, T, P (powers of 1024)."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d{1,15})([KMGTP]?)", value)
        if match is None:
            raise Invalid(f"{where} is {value!r}: give MiB as a number, or a whole number with K, M, G, T or P")
        kib = int(match[1]) * 1024 ** "KMGTP".index(match[2] or "M")
        if kib % 1024:
            raise Invalid(f"{where} is {value!r}: Slurm counts whole MiB")
        value = kib // 1024
    return whole(where, value)


def minutes(where: str, value: Any) -> int:
    """Give minutes of a number of minutes, or of Slurm's `[days-]hours:minutes:seconds`."""
    if isinstance(value, str):
        match = re.fullmatch(r"(?:(\d{1,6})-)?(\d{1,6}):([0-5]\d):00", value)
        if match is None:
            raise Invalid(f"{where} is {value!r}: give minutes as a number, or [days-]hours:minutes:00")
        value = (int(match[1] or 0) * 24 + int(match[2])) * 60 + int(match[3])
    return whole(where, value)


def name(where: str, value: Any) -> str:
    """Give the name where Slurm keeps it as it is."""
    if not isinstance(value, str) or NAME.fullmatch(value) is None:
        raise Invalid(f"{where} is {value!r}: give up to 32 lower-case letters, digits, - and _, a letter or _ first")
    return value


def limits_of(where: str, given: Mapping[str, Any]) -> dict[str, int]:
    """Normalise limits, `{"GrpTRES": {"cpu": 8, "mem": "32G"}, "GrpJobs": 4, "MaxWall": "1-00:00:00"}`.

    None means no limit. Raises Invalid for the first value that is not understood.
    """
    found: dict[str, int] = {}
    for word, value in given.items():
        kind = WORDS.get(word)
        if kind is None:
            raise Invalid(f"{where} has the unknown limit {word!r}: known are {', '.join(WORDS)}")
        if value is None:
            continue
        if kind == "tres":
            if not isinstance(value, Mapping):
                raise Invalid(f"{where}.{word} is {value!r}: give a mapping such as {{cpu: 8, mem: 32G}}")
            for tres, amount in value.items():
                if not isinstance(tres, str) or TRES.fullmatch(tres) is None:
                    raise Invalid(f"{where}.{word} has the unknown resource {tres!r}: cpu, mem, gres/NAME ...")
                if amount is not None:
                    parse = memory_mib if tres == "mem" else whole
                    found[f"{word}={tres}"] = parse(f"{where}.{word}.{tres}", amount)
        else:
            parse = minutes if kind == "minutes" else whole
            found[word] = parse(f"{where}.{word}", value)
    return found


# --- Values as sacctmgr prints them ----------------------------------------------------------------------------


def printed_amount(text: str, memory: bool) -> int:
    """Give the number of a printed amount; `1.50T` and `16G` of memory in MiB, `2K` of anything else as 2048."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTPE]?)", text)
    if match is None:
        raise ValueError(f"sacctmgr printed an amount that is no number: {text!r}")
    power = "KMGTPE".index(match[2]) + 1 if match[2] else 0
    if memory:
        power = power - 2 if match[2] else 0
    return round(float(match[1]) * 1024.0**power)


def printed_minutes(text: str) -> int:
    """Give minutes, rounded up, of `[days-]hours:minutes:seconds` or of a bare number of minutes."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return int(text)
    days, hours, rest, seconds = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + rest + (1 if seconds else 0)


def printed_limits(row: Mapping[str, str]) -> dict[str, int]:
    """Give the limits of one printed row."""
    found: dict[str, int] = {}
    for column, word, _, kind in COLUMNS:
        text = row.get(column, "")
        if not text:
            continue
        if kind == "tres":
            for part in text.split(","):
                tres, _, amount = part.partition("=")
                found[f"{word}={tres}"] = printed_amount(amount, memory=tres == "mem")
        else:
            found[word] = printed_minutes(text) if kind == "minutes" else int(text)
    return found


def inheritable(limits: Limits) -> dict[str, int]:
    """Give those limits of a row that the rows beneath it show too."""
    return {key: value for key, value in limits.items() if key.startswith("Max")}


# --- Values as sacctmgr takes them -----------------------------------------------------------------------------


def settings(values: Iterable[tuple[str, int | str]]) -> list[str]:
    """Give `Word=value` for each, a resource's parts joined: `GrpTRES=cpu=8,mem=32768`."""
    parts: dict[str, list[str]] = {}
    for key, value in values:
        word, _, tres = key.partition("=")
        parts.setdefault(word, []).append(f"{tres}={value}" if tres else str(value))
    return [f"{word}={','.join(values_of)}" for word, values_of in parts.items()]


def words(values: Mapping[str, int | str]) -> str:
    """Give values for people: `GrpTRES=cpu=8,mem=32768 MaxWall=60`; a removed limit is -1."""
    return " ".join(settings(values.items()))


def load_word(key: str) -> str:
    """Give the word that load files have for a limit."""
    word, equals, tres = key.partition("=")
    return f"{LOAD_WORDS[word]}{equals}{tres}"


def in_words(limits: Limits) -> dict[str, str]:
    """Give limits for people, with units: `{"GrpTRES mem": "16384 MiB", "MaxWall": "60 min"}`."""
    units = {"tres": "", "count": "", "minutes": " min"}
    return {
        key.replace("=", " "): f"{value}{' MiB' if key.endswith('=mem') else units[WORDS[key.partition('=')[0]]]}"
        for key, value in sorted(limits.items())
    }
