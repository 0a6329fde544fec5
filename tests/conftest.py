"""Let the tests import what Ansible puts together at run time: module_utils of the project and its modules."""

from __future__ import annotations

import sys
from pathlib import Path

import ansible.module_utils
from hypothesis import settings

COMMON = Path(__file__).parents[1] / "roles" / "common"

ansible.module_utils.__path__.append(str(COMMON / "module_utils"))
sys.path += [str(COMMON / "library"), str(COMMON / "filter_plugins"), str(COMMON / "callback_plugins")]
# What several tests share.
sys.path.append(str(Path(__file__).parent / "unit"))

# A busy machine is no fault of what is tested.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
