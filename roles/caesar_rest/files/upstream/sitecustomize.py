"""Lets caesar-rest be imported on Python 3.11: stands in for what newer libraries lack and what no job here needs.

`celery.task` has gone from Celery 5; only its `revoke` is imported, and only a Celery scheduler would call it.
`regions` does not build here; two names of it are imported for reading DS9 files, which the scheduler Slurm does not.
"""

import sys
from types import ModuleType
from typing import Any


def _absent(*_: Any, **__: Any) -> None:
    raise NotImplementedError("this part of caesar-rest is not installed here")


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module
    return module


_control = _module("celery.task.control", revoke=_absent)
_module("celery.task", control=_control, __path__=[])
_module("regions", DS9Parser=_absent, read_ds9=_absent)
