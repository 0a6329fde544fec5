#!/usr/bin/python
"""Ansible module: the machines of one testbed on an OpenStack cloud, with all they need, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: openstack_machines
short_description: Make, repair and remove the machines of a testbed on an OpenStack cloud
description:
  - Reads once for each kind of thing what there is, says what the cloud lacks and which limits of the project are too
    low before anything is made, and then makes network, security groups, key pair, server groups, servers and the entry
    machine's floating address.
  - Servers in ERROR, or left by a run that was cut off, are made anew or brought to what they should be.
  - A machine's volume of state is made once and attached to each server that it gets. Only V(absent) deletes it.
  - Nothing is changed or deleted that does not carry the testbed's mark.
  - Writes ssh_config, known_hosts, machines.json and the key that may log in into O(state_dir).
options:
  testbed:
    description: The testbed's name, in the mark of everything that is made.
    type: str
    required: true
  state:
    description: V(absent) removes all that carries the mark, and O(state_dir), and waits until it is gone.
    type: str
    choices: [present, absent]
    default: present
  state_dir:
    description: Where the operator's handles lie.
    type: path
    required: true
  cloud:
    description: Name of the cloud in clouds.yaml; the environment's (OS_CLOUD) where empty.
    type: str
    default: ""
  machines:
    description:
      - The machines by name, each with C(size), C(groups) and C(state_gb), the gigabytes of the volume for what must
        outlive it; none where that is 0 or the cloud has no block storage.
    type: dict
    default: {}
  sizes:
    description: Sizes by name, each with C(cores), C(memory_gib) and C(disc_gb).
    type: dict
    default: {}
  flavors:
    description: Name of the cloud's flavor for a size; the size's own name where it is not listed.
    type: dict
    default: {}
  image:
    description: Name or id of the image.
    type: str
    default: ""
  user:
    description: The user of the image that may log in, without password but with sudo.
    type: str
    default: debian
  external_network:
    description: The cloud's network that floating addresses come from.
    type: str
    default: ""
  cidr:
    description: Addresses of the machines' own network.
    type: str
    default: 10.20.0.0/24
  nameservers:
    description: Name servers of the machines; the cloud's where empty.
    type: list
    elements: str
    default: []
  entry:
    description: The machine with the floating address.
    type: str
    default: ""
  ssh_from:
    description: Addresses (CIDR) that reach the entry machine by ssh.
    type: list
    elements: str
    default: []
  rules:
    description: What the parts need from each other, each with C(to), C(from), C(protocol) and C(ports).
    type: list
    elements: dict
    default: []
  apart:
    description: Groups of the inventory whose machines should be on different hosts.
    type: list
    elements: str
    default: []
  policy:
    description: How strictly.
    type: str
    choices: [soft-anti-affinity, anti-affinity]
    default: soft-anti-affinity
  boot_volumes:
    description: Boot from volumes where the cloud has block storage.
    type: bool
    default: true
  rebuild:
    description:
      - Machines to install anew although nothing is wrong with them. All on their discs is lost; they keep their
        addresses, ports and other volumes, and get another host key.
      - Where the disc is a volume and the compute service is older than 2.93 (Zed), the server is deleted and made
        anew.
    type: list
    elements: str
    default: []
  control_prefix:
    description: Beginning of ssh's sockets of shared connections; those to machines that went or are new are closed.
    type: str
    default: ""
  timeout:
    description: Seconds that servers have to become active, or to go away.
    type: int
    default: 600
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Have the machines
  openstack_machines:
    testbed: caesar
    state_dir: /root/.local/state/caesar-testbed/caesar
    cloud: mycloud
    machines: {slurm: {size: desktop, groups: [slurm_controllers, slurm_nodes]}}
    sizes: {desktop: {cores: 4, memory_gib: 16, disc_gb: 250}}
    image: debian-12
    external_network: public
    entry: slurm
    ssh_from: [192.0.2.0/24]
"""

RETURN = r"""
steps:
  description: What was done, or would be in check mode.
  type: list
  elements: dict
  sample: [{action: create server, subject: slurm, why: there is none}]
  returned: always
volumes:
  description: Machine to the id of the volume for its state.
  type: dict
  returned: when state is present
bare:
  description: Machines whose state lies on their discs, since the cloud has no block storage.
  type: list
  elements: str
  returned: when state is present
faults:
  description: What stands in the way, a sentence for each; nothing was changed.
  type: list
  elements: str
  returned: when something does
"""

import ipaddress
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils import openstack_cloud as oc
from ansible.module_utils import openstack_handles, openstack_steps
from ansible.module_utils import openstack_limits as limits
from ansible.module_utils import openstack_plan as op
from ansible.module_utils.basic import AnsibleModule


class Files:
    """The state directory."""

    def __init__(self, root: Path, check: bool) -> None:
        self.root = root
        self.changed: list[str] = []
        self._check = check

    def write(self, name: str, text: str) -> None:
        """Write a file, for nobody else to read, where it is not so already."""
        path = self.root / name
        try:
            if path.read_text() == text:
                return
        except FileNotFoundError:
            pass
        self.changed.append(str(path))
        if not self._check:
            self.root.mkdir(parents=True, mode=0o700, exist_ok=True)
            partial = path.with_name(path.name + ".new")
            partial.touch(mode=0o600)
            partial.chmod(0o600)
            partial.write_text(text)
            partial.rename(path)

    def login_key(self) -> str:
        """Give the public part of the key that may log in, made where it is missing; in check mode that is nothing."""
        path = self.root / "secrets" / "ssh_ed25519"
        public = path.with_name(path.name + ".pub")
        if not (path.is_file() and public.is_file()):
            self.changed.append(str(path))
            if self._check:
                return ""
            self.root.mkdir(parents=True, mode=0o700, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.unlink(missing_ok=True)
            make_key(path, "caesar-testbed")
        return public.read_text().strip()


def make_key(path: Path, comment: str) -> None:
    """Make an ssh key without a passphrase."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    subprocess.run(argv, check=True, capture_output=True)


def host_key() -> tuple[str, str]:
    """Make a host key and give its private and its public part; it is kept nowhere but in the machine."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "key"
        make_key(path, "")
        return path.read_text(), " ".join(path.with_suffix(".pub").read_text().split()[:2])


def desired_of(params: dict[str, Any], public_key: str) -> op.Desired:
    """Make of the module's parameters what is wanted."""
    machines = tuple(
        op.Machine(name, one["size"], tuple(sorted(one.get("groups") or [])))
        for name, one in params["machines"].items()
    )
    sizes = {
        name: op.Size(int(one["cores"]), float(one["memory_gib"]), int(one["disc_gb"]))
        for name, one in params["sizes"].items()
    }
    apart = {
        group: members
        for group in params["apart"]
        if len(members := tuple(machine.name for machine in machines if group in machine.groups)) > 1
    }
    return op.Desired(
        testbed=params["testbed"],
        machines=machines,
        sizes=sizes,
        flavors={name: params["flavors"].get(name, name) for name in sizes},
        image=params["image"],
        external_network=params["external_network"],
        cidr=params["cidr"],
        entry=params["entry"],
        security_groups=op.security_groups(machines, params["rules"], params["ssh_from"]),
        apart=apart,
        policy=params["policy"],
        public_key=public_key,
        boot_volumes=params["boot_volumes"],
        nameservers=tuple(params["nameservers"]),
        rebuild=frozenset(params["rebuild"]),
        state_gb={name: int(one["state_gb"]) for name, one in params["machines"].items() if one.get("state_gb")},
        addresses=known_addresses(params),
    )


def known_addresses(params: dict[str, Any]) -> dict[str, str]:
    """Read which addresses machines had when the operator's handles were written, those too that had left by then."""
    handle = Path(params["state_dir"], "machines.json")
    written = json.loads(handle.read_text()) if handle.is_file() else {"machines": {}}
    found = written.get("left", {}) | {name: one["address"] for name, one in written["machines"].items()}
    network = ipaddress.ip_network(params["cidr"])
    return {name: address for name, address in found.items() if ipaddress.ip_address(address) in network}


def connect(params: dict[str, Any]) -> oc.Cloud:
    """Log in.

    Raises:
        oc.Failure: where that does not work.
    """
    # It takes a second to import: not before it is needed.
    import openstack

    try:
        connection = openstack.connect(cloud=params["cloud"] or None, app_name="caesar-testbed")
        return oc.Cloud(connection, params["testbed"])
    except Exception as error:  # noqa: BLE001 - configuration, names, certificates, passwords
        where = f"cloud {params['cloud']}" if params["cloud"] else "the cloud that OS_CLOUD names"
        raise oc.Failure(f"cannot log in to {where}: {error}") from None


def handles(files: Files, params: dict[str, Any], cloud: oc.Cloud, current: op.Current) -> None:
    """Write how the machines are reached."""
    address = {server.machine: server.address for server in current.servers if server.address}
    outside = current.floating[0].address if current.floating else ""
    network = ipaddress.ip_network(params["cidr"])
    volumes = volumes_of(params, cloud)
    # What lies on the volume of a machine that has left names its address: it gets that again when it comes back.
    kept = {volume.machine for volume in current.volumes} - address.keys()
    left = {name: where for name, where in sorted(known_addresses(params).items()) if name in kept}
    content = {
        "subnet": str(network),
        "gateway": str(network[1]),
        "entry": outside,
        "machines": {
            name: {"address": where} | ({"volume": volumes[name]} if name in volumes else {})
            for name, where in sorted(address.items())
        },
    } | ({"left": left} if left else {})
    files.write("machines.json", json.dumps(content, indent=2) + "\n")
    files.write(
        "ssh_config",
        openstack_handles.ssh_config(params["testbed"], address, params["entry"], outside, params["user"], files.root),
    )
    known = [f"{params['testbed']}-{name} {cloud.host_keys[name]}\n" for name in sorted(address)]
    files.write("known_hosts", "".join(known))


def volumes_of(params: dict[str, Any], cloud: oc.Cloud) -> dict[str, str]:
    """Give the volumes of state of the machines that are to have one."""
    return {
        name: cloud.ids["volume", name]
        for name, one in params["machines"].items()
        if one.get("state_gb") and ("volume", name) in cloud.ids
    }


def state_told(params: dict[str, Any], cloud: oc.Cloud) -> dict[str, Any]:
    """Give what is known of the machines' volumes of state."""
    state = sorted(name for name, one in params["machines"].items() if one.get("state_gb"))
    return {"volumes": volumes_of(params, cloud), "bare": [] if cloud.block_storage else state}


def result(steps: Sequence[op.Step], files: Files, testbed: str) -> dict[str, Any]:
    """Give what Ansible is told."""
    lines = [f"{step.action} {step.subject}: {step.why}\n" for step in steps]
    lines += [f"write {path}\n" for path in files.changed]
    return {
        "changed": bool(lines),
        "steps": [step.shown() for step in steps],
        "diff": {
            "before": "",
            "after": "".join(lines),
            "before_header": f"machines of {testbed}",
            "after_header": f"what is done for machines of {testbed}",
        },
    }


def present(module: AnsibleModule) -> dict[str, Any]:
    """Have the machines."""
    params = module.params
    files = Files(Path(params["state_dir"]), module.check_mode)
    new_state = not files.root.exists()
    cloud = connect(params)
    # The key is made only where there is nothing in the way.
    public = Path(params["state_dir"], "secrets/ssh_ed25519.pub")
    desired = desired_of(params, public.read_text().strip() if public.is_file() else "")
    current = cloud.read()
    steps = op.plan(desired, current)
    if op.takes(steps):
        current = cloud.read_offers(desired, current)
        steps = op.plan(desired, current)
    wrong = limits.faults(desired, current, steps) + limits.short(desired, current, steps)
    if wrong:
        told = "".join(f"\n- {fault}" for fault in wrong)
        things = "1 thing stands" if len(wrong) == 1 else f"{len(wrong)} things stand"
        module.fail_json(msg=f"{things} in the way on the cloud; nothing has been changed:{told}", faults=wrong)
    if not desired.public_key:
        desired = desired_of(params, files.login_key())
        steps = op.plan(desired, current)
    if module.check_mode:
        if not steps:
            handles(files, params, cloud, current)
        return result(steps, files, params["testbed"]) | state_told(params, cloud)
    if steps:
        try:
            openstack_steps.do(cloud, desired, steps, new_user_data(), params["timeout"])
        except oc.NotMade as error:
            made = {step.subject for step in steps if step.action == "create server"}
            take_back(module, cloud, desired, current, error, made)
            if new_state:
                shutil.rmtree(files.root)
            module.fail_json(msg=limits.not_apart(desired, error.why))
    close_connections(params["control_prefix"], steps)
    # A machine that another run left in the making gets its address only then.
    unfinished = [server.id for server in op.chosen(desired, current)[0].values() if server.status == "BUILD"]
    if unfinished:
        cloud.wait_for_servers(unfinished, params["timeout"])
    if steps or unfinished:
        current = cloud.read_again(current)
        openstack_steps.give_address(cloud, desired, current)
    handles(files, params, cloud, current)
    return result(steps, files, params["testbed"]) | state_told(params, cloud)


def new_user_data() -> Callable[[], tuple[str, str]]:
    """Give what makes a machine's user data, with a host key of its own, and that key's public part."""
    lock = threading.Lock()

    def make() -> tuple[str, str]:
        private, public = host_key()
        with lock:
            return openstack_handles.user_data(private, public), public

    return make


def close_connections(prefix: str, steps: Sequence[op.Step]) -> None:
    """End ssh's shared connections to machines that are not what they were: ssh would wait for an answer on them."""
    for step in steps:
        socket = Path(f"{prefix}{step.subject}")
        if prefix and step.action in ("delete server", "rebuild server") and socket.exists():
            argv = ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "none"]
            subprocess.run(argv, check=False, capture_output=True)


def take_back(
    module: AnsibleModule,
    cloud: oc.Cloud,
    desired: op.Desired,
    before: op.Current,
    error: oc.NotMade,
    created: Collection[str],
) -> None:
    """Remove what this run made, where machines that must be apart cannot be: another run would fail as well.

    Raises:
        oc.NotMade: where it is for something else, which the next run may repair.
    """
    apart = {name for members in desired.apart.values() for name in members}
    if desired.policy != "anti-affinity" or not apart & error.why.keys() & set(created):
        raise error
    made = op.since(before, cloud.read())
    openstack_steps.undo(cloud, made, op.plan_removal(made, desired.testbed), module.params["timeout"])


def absent(module: AnsibleModule) -> dict[str, Any]:
    """Have nothing of them."""
    params = module.params
    root = Path(params["state_dir"])
    files = Files(root, module.check_mode)
    cloud = connect(params)
    current = cloud.read()
    steps = op.plan_removal(current, params["testbed"])
    if not module.check_mode:
        openstack_steps.undo(cloud, current, steps, params["timeout"])
    if root.exists():
        files.changed.append(f"{root} (removed)")
        if not module.check_mode:
            shutil.rmtree(root)
    return result(steps, files, params["testbed"])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "testbed": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "state_dir": {"type": "path", "required": True},
            "cloud": {"type": "str", "default": ""},
            "machines": {"type": "dict", "default": {}},
            "sizes": {"type": "dict", "default": {}},
            "flavors": {"type": "dict", "default": {}},
            "image": {"type": "str", "default": ""},
            "user": {"type": "str", "default": "debian"},
            "external_network": {"type": "str", "default": ""},
            "cidr": {"type": "str", "default": "10.20.0.0/24"},
            "nameservers": {"type": "list", "elements": "str", "default": []},
            "entry": {"type": "str", "default": ""},
            "ssh_from": {"type": "list", "elements": "str", "default": []},
            "rules": {"type": "list", "elements": "dict", "default": []},
            "apart": {"type": "list", "elements": "str", "default": []},
            "policy": {
                "type": "str",
                "choices": ["soft-anti-affinity", "anti-affinity"],
                "default": "soft-anti-affinity",
            },
            "boot_volumes": {"type": "bool", "default": True},
            "control_prefix": {"type": "str", "default": ""},
            "rebuild": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    try:
        outcome = present(module) if module.params["state"] == "present" else absent(module)
    except oc.Failure as error:
        module.fail_json(msg=str(error))
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
