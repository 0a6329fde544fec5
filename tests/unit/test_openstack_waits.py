"""What is waited for on a cloud, and what is said when it does not come. The cloud is a list of answers."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils import openstack_cloud as oc
from ansible.module_utils import openstack_plan as op


class Scripted(oc.Cloud):
    """A cloud whose answers are given; the last one again and again."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.testbed = "lab"
        self.answers, self.asked = list(answers), 0

    def call(self, service: str, method: str, path: str, *_: Any, **__: Any) -> Any:
        assert (service, method) == ("compute", "GET")
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def listed(**states: str) -> dict[str, Any]:
    """A list of servers by the name of their machine; "BUILD" is a state, "ACTIVE rebuilding" one with work on it."""
    servers = []
    for name, state in states.items():
        status, _, task = state.partition(" ")
        server: dict[str, Any] = {"id": name, "name": f"lab-{name}", "status": status, "metadata": {op.MACHINE: name}}
        server |= {"OS-EXT-STS:task_state": task or None}
        if status == "ERROR":
            server["fault"] = {"message": f"{name} is broken"}
        servers.append(server)
    return {"servers": servers}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oc, "POLL_SECONDS", 0.01)


def test_a_server_is_ready_when_nothing_is_done_to_it_any_more() -> None:
    cloud = Scripted(listed(a="BUILD"), listed(a="ACTIVE rebuilding"), listed(a="REBUILD"), listed(a="ACTIVE"))
    cloud.wait_for_servers(["a"], 10)
    assert cloud.asked == 4


def test_what_failed_is_told_when_all_others_are_ready_and_all_of_it_at_once() -> None:
    cloud = Scripted(listed(a="ERROR", b="BUILD", c="BUILD"), listed(a="ERROR", b="ACTIVE", c="ERROR"))
    with pytest.raises(oc.NotMade) as caught:
        cloud.wait_for_servers(["a", "b", "c"], 10)
    assert caught.value.why == {"a": "a is broken", "c": "c is broken"}
    assert str(caught.value).endswith("makes them anew:\n- a: a is broken\n- c: c is broken")


def test_time_that_is_over_is_told_beside_what_failed() -> None:
    with pytest.raises(oc.NotMade) as caught:
        Scripted(listed(a="ERROR", b="BUILD")).wait_for_servers(["a", "b"], 0.05)
    assert caught.value.why == {"a": "a is broken", "b": "after 0.05 s it is not active"}
    with pytest.raises(oc.Failure, match=r"after 0.05 s these are not active: lab-b"):
        Scripted(listed(b="BUILD")).wait_for_servers(["b"], 0.05)


def test_servers_that_go_are_waited_for_whatever_their_state() -> None:
    cloud = Scripted(listed(a="ERROR", other="ACTIVE"), listed(a="ACTIVE deleting"), listed(other="ACTIVE"))
    cloud.wait_for_servers(["a"], 10, gone=True)
    assert cloud.asked == 3
    with pytest.raises(oc.Failure, match="are not gone: lab-a"):
        Scripted(listed(a="ERROR")).wait_for_servers(["a"], 0.05, gone=True)


@pytest.mark.parametrize(
    ("states", "placed"),
    [
        (["BUILD scheduling", "BUILD", "BUILD networking"], True),
        (["ACTIVE"], True),
        (["BUILD scheduling", "ERROR"], False),
    ],
)
def test_a_host_is_known_once_the_server_is_worked_on_there(states: list[str], placed: bool) -> None:
    cloud = Scripted(*({"server": listed(a=state)["servers"][0]} for state in states))
    assert cloud.is_placed("a", 10) is placed
    assert cloud.asked == len(states)


def test_no_host_in_time_is_a_failure() -> None:
    with pytest.raises(oc.Failure, match=r"after 0.05 s there is no host for lab-a"):
        Scripted({"server": listed(a="BUILD scheduling")["servers"][0]}).is_placed("a", 0.05)
