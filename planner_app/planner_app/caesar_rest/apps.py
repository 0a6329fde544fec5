"""The applications, their options, and the words that these become on a job's command line. Pure.

Names, types and ranges are those of caesar-rest, as far as jobs here may need them: of the nearly three hundred options
of `caesar` there are a few.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class BadInputs(ValueError):
    """The inputs of a job are not such as its application takes; the message says what of them."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option. Without a kind of value it is a flag."""

    text: str
    category: str
    kind: type[int] | type[float] | None = None
    default: float = 0
    least: float = 0
    most: float = 0

    def described(self) -> dict[str, Any]:
        """Tell about it as the API does."""
        about: dict[str, Any] = {
            "mandatory": False,
            "type": self.kind.__name__ if self.kind else "none",
            "description": self.text,
            "advanced": 0,
            "category": self.category,
            "subcategory": "",
            "enum": False,
        }
        return about | ({"default": self.default, "min": self.least, "max": self.most} if self.kind else {})

    def words(self, name: str, value: Any) -> list[str]:
        """Put a value on the command line.

        Raises BadInputs.
        """
        if self.kind is None:
            if not isinstance(value, bool):
                raise BadInputs(f"{name} must be true or false")
            return [f"--{name}"] if value else []
        try:
            return [f"--{name}={self.kind(value)}"]
        except (TypeError, ValueError, OverflowError):
            raise BadInputs(f"{name} must be of type {self.kind.__name__}") from None


@dataclass(frozen=True, slots=True)
class App:
    """One application."""

    image: str
    input_option: str
    always: tuple[str, ...]
    options: Mapping[str, Option]

    def arguments(self, inputs: Any, path: str) -> str:
        """Make the job's options: those that every job has, those that were given, and the input.

        What is not known is dropped without a word, as caesar-rest does.

        Raises BadInputs.
        """
        if not isinstance(inputs, dict) or not inputs:
            raise BadInputs("job_inputs must have at least one option")
        words = list(self.always)
        for name, option in self.options.items():
            if name in inputs:
                words += option.words(name, inputs[name])
        return " ".join([*words, f"--{self.input_option}={path}"])

    def number(self, inputs: Mapping[str, Any], name: str) -> int:
        """Give a whole number above zero that was asked for; 1 where there is none."""
        if name not in self.options or name not in inputs:
            return 1
        try:
            return max(int(inputs[name]), 1)
        except (TypeError, ValueError, OverflowError):
            return 1


def _threshold(text: str, default: float) -> Option:
    return Option(text, "COMPACT-SOURCES", float, default, 0, 10000)


_FINDER = ("--run", "--save-summaryplot", "--save-regions ", "--save-catalog-to-json ")
_NO_REGIONS = ("--run", "--save-summaryplot", "--save-catalog-to-json ")
_PLACE = "/opt/containers"
_LOG = Option("leave the log on the standard output", "RUN")

APPS: dict[str, App] = {
    "caesar": App(
        f"{_PLACE}/caesar/caesar-job_latest.sif",
        "inputfile",
        _FINDER,
        {
            "no-logredir": _LOG,
            "nproc": Option("MPI processes on a node", "RUN", int, 1, 0, 100),
            "nthreads": Option("threads of a process", "RUN", int, 1, -1, 1000),
            "seedthr": _threshold("where a source begins, in sigma", 5),
            "mergethr": _threshold("down to where it grows, in sigma", 2.6),
        },
    ),
    "mrcnn": App(
        f"{_PLACE}/mrcnn/mrcnn-detect_latest.sif",
        "image",
        (),
        {
            "scoreThr": Option("least score of an object", "DETECT", float, 0.7, 0, 1),
            "iouThr": Option("least overlap with a true object", "DETECT", float, 0.6, 0, 1),
        },
    ),
    "aegean": App(
        f"{_PLACE}/aegean/aegean-job_latest.sif",
        "inputfile",
        _FINDER,
        {
            "save-bkgmap": Option("write the map of the background", "OUTPUT"),
            "save-rmsmap": Option("write the map of the noise", "OUTPUT"),
            "bkgbox": Option("side of a box of the background, in pixels", "IMGBKG", int, 100, 5, 10000),
            "bkggrid": Option("step of the background's grid, in pixels", "IMGBKG", int, 20, 5, 1000),
            "seedthr": _threshold("where a source begins, in sigma", 5),
            "mergethr": _threshold("down to where it grows, in sigma", 2.6),
            "fit-maxcomponents": Option("components of a source at most", "COMPACT-SOURCES", int, 3, 0, 100),
            "no-logredir": _LOG,
            "ncores": Option("cores of the job", "RUN", int, 1, 1, 100),
        },
    ),
    "cutex": App(
        f"{_PLACE}/cutex/cutex-job_latest.sif",
        "inputfile",
        _NO_REGIONS,
        {
            "seedthr": _threshold("where a source begins, in sigma", 5),
            "npixmin": Option("pixels of a source at least", "COMPACT-SOURCES", int, 4, 1, 10000),
            "npixpsf": Option("pixels across the beam", "COMPACT-SOURCES", float, 2.7, 1, 10000),
        },
    ),
}
