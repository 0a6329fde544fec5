#!/usr/bin/python
"""Ansible module: drain planners, let them make offers again, or ask what runs on their platforms."""

from __future__ import annotations

DOCUMENTATION = r"""
module: planner_drain
short_description: Take planners out of the vote and back, and see what still runs on their platforms
description:
  - Runs on the machine of the planners, for any number of them in one call. A drained planner makes no offers and
    takes back those that it has made; what was accepted runs on, or is cancelled (O(cancel)).
  - The state is a file in O(drained_directory), which outlives restarts of planner and machine. The planner reads it
    when it is told to, and the module waits until it has.
  - The action plugin of the same name waits (O(wait)) and shows what is waited for.
options:
  names:
    description: Virtual platforms.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(asked) changes nothing.
      - V(listed) lets those make offers again that were drained because they left the list (O(leaving)), and no others.
    type: str
    choices: [drained, active, asked, listed]
    default: drained
  cancel:
    description: Whether sessions that were accepted before are cancelled. Jobs of somebody else never are.
    type: bool
    default: false
  strict:
    description: Whether a name without a planner on this machine is an error, or is passed over.
    type: bool
    default: true
  leaving:
    description: Whether they are drained because they leave the list of platforms; V(listed) takes that back.
    type: bool
    default: false
  by:
    description: Who asks, for the reason that clients get.
    type: str
    default: ""
  reason:
    description: Why, in one line, for the same.
    type: str
    default: ""
  token:
    description: A bearer token that the planners know.
    type: str
    required: true
  configuration_directory:
    description: Where the planners' configurations lie.
    type: path
    required: true
  drained_directory:
    description: Where the files lie that say which planners are drained.
    type: path
    required: true
  settle:
    description: Seconds that a planner gets to take notice.
    type: int
    default: 10
  wait:
    description: Wait until nothing runs on the platforms any more (action plugin only).
    type: bool
    default: false
  timeout:
    description: Seconds to wait (action plugin only).
    type: int
    default: 3600
  patient:
    description: Whether planners and platforms that do not answer are waited for as well (action plugin only).
    type: bool
    default: true
  every:
    description: Seconds between two lines that tell what is waited for (action plugin only).
    type: float
    default: 10
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Drain a platform and wait until it is empty
  planner_drain:
    names: [slurm-account-001]
    by: ops@site
    reason: new discs
    wait: true
    token: "{{ token }}"
    configuration_directory: /etc/caesar-planner
    drained_directory: /var/lib/caesar-planner/.drained
"""

RETURN = r"""
planners:
  description:
    - For each name whether it answers (and if not C(why)), was drained before (C(before)) and is now (C(drained)), and
      C(live), its own account of the sessions and other jobs that run.
  type: dict
  returned: always
"""

import concurrent.futures
import datetime
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.planner_drains import parse, wanted

ONE_ANSWER = 8.0
PAUSE = 0.1

# A machine's neighbours are not reached through its proxy for the world.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def url_of(configuration: Path) -> str:
    """The address that a planner's configuration names; empty where there is none."""
    try:
        found = re.search(r"^url: (https?://\S+)$", configuration.read_text(encoding="utf-8"), re.MULTILINE)
    except FileNotFoundError:
        return ""
    return found[1] if found else ""


def capabilities(url: str, token: str) -> dict[str, Any]:
    """What a planner says of itself, with `answers`, and `why` where it does not."""
    request = urllib.request.Request(f"{url}/capabilities", headers={"Authorization": f"Bearer {token}"})  # noqa: S310
    try:
        with OPENER.open(request, timeout=ONE_ANSWER) as reply:
            said = json.load(reply)
    except urllib.error.HTTPError as error:
        return {"answers": False, "why": f"{error.code} {error.read(300).decode(errors='replace')}"}
    except (OSError, http.client.HTTPException, ValueError) as error:
        return {"answers": False, "why": str(getattr(error, "reason", error))}
    return {"answers": True, "drained": said.get("drained"), "live": said.get("live") or {}}


def ask(urls: dict[str, str], token: str) -> dict[str, dict[str, Any]]:
    """Ask all planners at once."""
    if not urls:
        return {}
    with concurrent.futures.ThreadPoolExecutor(min(16, len(urls))) as pool:
        return dict(zip(urls, pool.map(lambda url: capabilities(url, token), urls.values()), strict=True))


def write(path: Path, document: dict[str, Any] | None) -> None:
    """Put the file there by a rename, or take it away."""
    if document is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(mode=0o755, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    part.chmod(0o644)
    part.replace(path)


def notify(module: AnsibleModule, names: list[str]) -> None:
    """Let the planners that run read their files; one that does not will do so when it starts."""
    units = [f"planner@{name}.service" for name in names]
    _, out, _ = module.run_command(["systemctl", "is-active", *units])
    active = [unit for unit, state in zip(units, out.split(), strict=False) if state == "active"]
    if active:
        module.run_command(["systemctl", "reload", *active])


def settled(found: dict[str, Any] | None, said: dict[str, Any]) -> bool:
    """Whether a planner has taken notice of its file; one that does not answer has nothing to say."""
    told = said.get("drained")
    if not said["answers"] or found is None or told is None:
        return not said["answers"] or (found is None) is (told is None)
    return all(told.get(key) == found.get(key) for key in ("since", "reason", "cancel") if key in found)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["drained", "active", "asked", "listed"], "default": "drained"},
            "cancel": {"type": "bool", "default": False},
            "leaving": {"type": "bool", "default": False},
            "strict": {"type": "bool", "default": True},
            "by": {"type": "str", "default": ""},
            "reason": {"type": "str", "default": ""},
            "token": {"type": "str", "required": True, "no_log": True},
            "configuration_directory": {"type": "path", "required": True},
            "drained_directory": {"type": "path", "required": True},
            "settle": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    given = module.params
    names: list[str] = list(dict.fromkeys(given["names"]))
    urls = {name: url_of(Path(given["configuration_directory"]) / f"{name}.yml") for name in names}
    missing = [name for name in names if not urls[name]]
    if missing and not given["strict"]:
        names = [name for name in names if urls[name]]
        urls = {name: urls[name] for name in names}
    elif missing:
        module.fail_json(
            msg=f"there is no planner of {', '.join(missing)} on this machine; nothing was changed. "
            "The stage `planners` makes it"
        )
    paths = {name: Path(given["drained_directory"]) / f"{name}.json" for name in names}
    found = {name: parse(path.read_text(encoding="utf-8")) if path.exists() else None for name, path in paths.items()}
    if given["state"] == "listed":
        then = {name: None if (said or {}).get("leaving") is True else said for name, said in found.items()}
    elif given["state"] == "asked":
        then = dict(found)
    else:
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: UP017 - Python 3.9
        then = {
            name: wanted(
                found[name],
                drained=given["state"] == "drained",
                by=given["by"][:200],  # as much as a planner tells
                since=now,
                reason=given["reason"][:200],
                cancel=given["cancel"],
                leaving=given["leaving"],
            )
            for name in names
        }
    changed = [name for name in names if then[name] != found[name]]
    if not module.check_mode:
        for name in changed:
            write(paths[name], then[name])
        if changed:
            notify(module, changed)
    answers = ask(urls, given["token"])
    if not module.check_mode and given["state"] != "asked":
        deadline = time.monotonic() + given["settle"]
        # An earlier run may have ended between the file and the word.
        late = [name for name in names if name not in changed and not settled(then[name], answers[name])]
        if late:
            notify(module, late)
        while waiting := {name: urls[name] for name in names if not settled(then[name], answers[name])}:
            if time.monotonic() > deadline:
                module.fail_json(
                    msg=f"after {given['settle']} s the planner of {', '.join(waiting)} has not taken notice; "
                    "see journalctl -u planner@NAME",
                    changed=bool(changed),
                )
            time.sleep(PAUSE)  # a signal has no answer
            answers |= ask(waiting, given["token"])
    shown = [{name: each[name] or "makes offers" for name in changed} for each in (found, then)]
    module.exit_json(
        changed=bool(changed),
        planners={
            name: answers[name] | {"before": found[name], "drained": then[name], "url": urls[name]} for name in names
        },
        diff={
            side: "".join(f"{name}: {json.dumps(said)}\n" for name, said in each.items())
            for side, each in zip(("before", "after"), shown, strict=True)
        },
    )


if __name__ == "__main__":
    main()
