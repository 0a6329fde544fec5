#!/usr/bin/python
"""Ansible module `healthy`: wait until several HTTP services answer."""

from __future__ import annotations

DOCUMENTATION = r"""
module: healthy
short_description: Wait until all of several HTTP services answer 200
description:
  - Asks all at once, from the machine, and again until all have answered or the time is over.
  - Changes nothing, and fails with the last answer of each service that has not become healthy.
options:
  urls:
    description: What to ask with GET.
    type: list
    elements: str
    required: true
  timeout:
    description: Seconds after which it fails.
    type: int
    default: 30
attributes:
  check_mode: {support: full, details: A dry run asks nothing, since what it foretells may not run yet.}
"""

EXAMPLES = r"""
- name: Wait until the planners answer
  healthy:
    urls: ["http://10.89.0.13:8101/health"]
"""

RETURN = r"""
elapsed:
  description: Seconds until the last one was healthy.
  type: float
  returned: always
"""

import concurrent.futures
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request

from ansible.module_utils.basic import AnsibleModule

ONE_ANSWER = 5.0
PAUSE = 0.1

# A machine's neighbours are not reached through its proxy for the world.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url: str) -> str:
    """Give the empty string for a healthy service, else what it said."""
    try:
        with OPENER.open(url, timeout=ONE_ANSWER) as reply:
            return "" if reply.status == 200 else f"{reply.status}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read(500).decode(errors='replace')}"
    except (OSError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "urls": {"type": "list", "elements": "str", "required": True},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    waiting = list(module.params["urls"])
    for url in waiting:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            module.fail_json(msg=f"{url}: not an http or https address")
    if module.check_mode or not waiting:
        module.exit_json(changed=False, elapsed=0.0)
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(min(16, len(waiting))) as pool:
        while True:
            answers = dict(zip(waiting, pool.map(ask, waiting), strict=True))
            waiting = [url for url in waiting if answers[url]]
            elapsed = time.monotonic() - began
            if not waiting:
                module.exit_json(changed=False, elapsed=round(elapsed, 3))
            if elapsed > module.params["timeout"]:
                told = "; ".join(f"{url}: {answers[url]}" for url in waiting)
                module.fail_json(msg=f"not healthy after {elapsed:.0f} s: {told}", elapsed=round(elapsed, 3))
            time.sleep(PAUSE)


if __name__ == "__main__":
    main()
