#!/usr/bin/python
"""Documentation of the action plugin of the same name; nothing of this runs on a machine."""

DOCUMENTATION = r"""
module: long_command
short_description: Run a long command on the controller and show that it moves
description:
  - Runs a command on the controller, whatever host the task is for, and shows every few seconds how long
    it has taken and the last line that it printed. For steps of a minute or more that happen once.
  - The command is stopped with all its children when the run is stopped.
  - In check mode it says what it would run, unless O(creates) is there.
options:
  argv:
    description: The program and its arguments.
    type: list
    elements: str
  script:
    description: Instead of O(argv), a script for C(bash -euo pipefail).
    type: str
  message:
    description: Shown before it starts. Say what is done, why, how long it takes, and that it happens once.
    type: str
    required: true
  creates:
    description:
      - A path that the command makes. Where it is there, nothing runs; where it is missing afterwards, the task fails.
      - The command should make it under another name and rename it, so that half of it is never taken for the whole.
    type: path
  chdir:
    description: The directory to run it in.
    type: path
  log:
    description: A file that gets all its output, both streams in one.
    type: path
  every:
    description: Seconds between two lines of progress.
    type: float
    default: 10.0
  nice:
    description: Added to the niceness.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Build Kubernetes
  long_command:
    message: "Building Kubernetes v1.36.3 from its Go modules, since no release mirror is named: 12 minutes, once."
    argv: ["{{ role_path }}/files/build.sh", "{{ target }}.new"]
    creates: "{{ target }}"
    log: "{{ target }}.log"
    nice: 5
  environment: {GOFLAGS: -mod=readonly}
"""

RETURN = r"""
rc: {description: Exit code., returned: when it ran, type: int}
elapsed: {description: Seconds it took., returned: when it ran, type: float}
stdout_lines: {description: The last line, or the last 40 of a command that failed., returned: when it ran, type: list}
"""
