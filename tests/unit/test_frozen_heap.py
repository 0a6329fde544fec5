"""What Ansible has loaded is out of the sight of Python's collector of garbage."""

from __future__ import annotations

import configparser
import gc
from collections.abc import Iterator
from pathlib import Path

import frozen_heap
import pytest


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_what_is_there_when_a_play_begins_is_left_alone() -> None:
    mine = [["kept"]]
    assert any(each is mine for each in gc.get_objects())
    frozen_heap.CallbackModule().v2_playbook_on_play_start(None)
    assert not any(each is mine for each in gc.get_objects())
    later = [["collected"]]
    assert any(each is later for each in gc.get_objects())


def test_it_is_enabled() -> None:
    configuration = configparser.ConfigParser()
    configuration.read(Path(__file__).parents[2] / "ansible.cfg")
    assert "frozen_heap" in configuration["defaults"]["callbacks_enabled"]
