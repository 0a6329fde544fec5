"""The tests' testbed as a site's operator would find it: clusters that exist already, and few rights on them.

Everything here is what the site's administrator does beforehand, the inventory that the operator makes of
`inventories/site`, and what the site looks like, so that it can be compared afterwards.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import mongo_image
import yaml
from handles import NAME, PROJECT, STATE, as_operator, machine
from handles import PLATFORMS as TENANTS

EXAMPLE = PROJECT / "inventories/site"
SITE = f"{NAME}-site"
#: On the shared storage of the testbed, beside its own directories.
STORAGE = "/mnt/storage/site"
#: People of the site, on its submit host: with Slurm's operator rights, a coordinator's, and none.
PEOPLE = {"site-operator": 21000, "site-coordinator": 21001, "site-nobody": 21002}
#: Unix users that the site has made for the platforms on Slurm.
USERS = {"site-slurm-001": 22001, "site-slurm-002": 22002}
NAMESPACES = {"site-k8s-001": 22101, "site-k8s-002": 22102}
PLATFORMS = USERS | NAMESPACES
#: The namespace of caesar-rest and its database, and what the site has for the database's files.
SERVICES = "site-caesar-rest"
DATABASE_CLASS, DATABASE_STORAGE = "site-database", "/mnt/storage/site-database"
#: Volumes that the site gives; the one of caesar-rest is made here.
VOLUMES = {f"site-{name}" for name in NAMESPACES} | {DATABASE_CLASS}
#: Accounts: one that the operator's rights make, one that the coordinator finds.
MADE, FOUND = "site-made", "site-found"
QOS = "site-qos"
ACCOUNT = "caesar-operator"
#: Roles of the shipped manifest that are bound beside the first.
MORE_RIGHTS = ("caesar-testbed-operator-services", "caesar-testbed-operator-volumes")


def ansible(inventory: Path, playbook: str, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """`ansible-playbook` as the operator types it, with nobody to answer a question."""
    command = [PROJECT / ".venv/bin/ansible-playbook", "-i", inventory, playbook, *arguments]
    return subprocess.run(
        [str(word) for word in command],
        cwd=PROJECT,
        env=as_operator(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


# What the site's administrator does.


def prepare() -> None:
    """Make the testbed a site: people and users, rights in Slurm and Kubernetes, storage, a host for the services."""
    keys = "/root/.ssh/authorized_keys"
    users = "; ".join(
        f"id {name} >/dev/null 2>&1 || {{ groupadd -g {number} {name}; "
        f"useradd -M -d /home/{name} -u {number} -g {number} -s /bin/bash {name}; }}"
        for name, number in (PEOPLE | USERS).items()
    )
    people = "; ".join(f"install -d -o {name} -g {name} /home/{name}/.ssh" for name in PEOPLE)
    keyed = "; ".join(f"install -o {name} -g {name} -m 600 {keys} /home/{name}/.ssh/" for name in PEOPLE)
    # Slurm's database asks who somebody is on the machine where it runs.
    machine("slurm").check_output(f"set -e; {users}")
    machine("planner").check_output(
        f"set -e; {users}; {people}; {keyed}; mkdir -p {STORAGE}; install -d -m 700 -o 999 -g 999 {DATABASE_STORAGE}"
    )
    machine("slurm").check_output(
        "set -e; "
        f"sacctmgr -iQ add qos {QOS} flags=DenyOnLimit || true; "
        f"sacctmgr -iQ add account people,{FOUND} || true; "
        f"sacctmgr -iQ modify account {FOUND} set qos={QOS} defaultqos={QOS} || true; "
        f"sacctmgr -iQ add user {','.join(PEOPLE)} account=people || true; "
        "sacctmgr -iQ modify user site-operator set adminlevel=Operator || true; "
        f"sacctmgr -iQ add coordinator account={FOUND} names=site-coordinator || true"
    )
    give_rights()
    mongo_image.bring()
    # The services' host of the site is the one where nothing of Slurm was: it gets the commands.
    clients = STATE / "site-clients.yml"
    clients.write_text(yaml.safe_dump({"all": {"children": {"planners": {"hosts": {"kube": {}}}}}}))
    done = subprocess.run(
        [PROJECT / ".venv/bin/ansible-playbook", "-i", PROJECT / "inventories/local", "-i", clients,
         "playbooks/slurm.yml", "--limit=kube", "-e", f"testbed_name={NAME}"],
        cwd=PROJECT, env=as_operator(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


def give_rights() -> None:
    """Apply the shipped manifest, and make the volumes that the site gives."""
    volumes = [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"site-{name}"},
            "spec": {
                "capacity": {"storage": "1T"},
                "accessModes": ["ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "hostPath": {"path": STORAGE, "type": "Directory"},
            },
        }
        for name in NAMESPACES
    ]
    volumes.append(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": DATABASE_CLASS},
            "spec": {
                "capacity": {"storage": "5Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": DATABASE_CLASS,
                "hostPath": {"path": DATABASE_STORAGE, "type": "Directory"},
            },
        }
    )
    manifest = (PROJECT / "docs/kubernetes-operator.yaml").read_text()
    nobody = {
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "site-nobody", "namespace": ACCOUNT},
    }  # fmt: skip
    [binding] = [item for item in yaml.safe_load_all(manifest) if item["kind"] == "ClusterRoleBinding"]
    bound = [
        binding | {"metadata": {"name": name}, "roleRef": binding["roleRef"] | {"name": name}} for name in MORE_RIGHTS
    ]
    text = "\n---\n".join([manifest, *(yaml.safe_dump(item) for item in [*bound, *volumes, nobody])])
    machine("kube").check_output(f"printf %s {shlex.quote(text)} | kubectl apply -f -")


def clean() -> None:
    """Take all of `prepare` away again."""
    kube, slurm = machine("kube"), machine("slurm")
    kube.check_output(
        "kubectl delete --ignore-not-found -f - <<'EOF'\n"
        + (PROJECT / "docs/kubernetes-operator.yaml").read_text()
        + "\nEOF"
    )
    kube.check_output(f"kubectl delete --ignore-not-found clusterrolebinding {' '.join(MORE_RIGHTS)}")
    kube.check_output(f"kubectl delete --ignore-not-found pv {' '.join(sorted(VOLUMES))}")
    mongo_image.take_away()
    slurm.check_output(
        f"sacctmgr -iQ delete user {','.join(PEOPLE | USERS)}; "
        f"sacctmgr -iQ delete account {','.join([*USERS, MADE, FOUND, 'people'])}; sacctmgr -iQ delete qos {QOS}; true"
    )
    for name in ("slurm", "planner"):
        machine(name).check_output(
            f"for user in {' '.join(PEOPLE | USERS)}; do userdel -rf $user; done 2>/dev/null; true"
        )
    machine("planner").check_output(f"rm -rf {STORAGE} {DATABASE_STORAGE}")
    kube.check_output(
        "systemctl disable --now munge quick-acknowledgements >/dev/null 2>&1; "
        "apt-get -qq -y purge slurm-client munge >/dev/null 2>&1; rm -rf /etc/slurm /etc/munge; true"
    )
    shutil.rmtree(STATE / "site", ignore_errors=True)


# What the operator has.


def kubeconfig(path: Path, account: str = ACCOUNT) -> Path:
    """A kubeconfig with the token of a service account, as docs/site.md makes it."""
    kube = machine("kube")
    token = kube.check_output(f"kubectl -n {ACCOUNT} create token {account} --duration=2h")
    document = yaml.safe_load((STATE / "kubeconfig").read_text())
    document["users"] = [{"name": account, "user": {"token": token}}]
    document["contexts"] = [
        {"name": "site", "context": {"cluster": document["clusters"][0]["name"], "user": account}},
    ]
    # Not the one that is chosen by itself: the inventory names it.
    document["current-context"] = ""
    path.write_text(yaml.safe_dump(document))
    path.chmod(0o600)
    return path


def inventory(
    directory: Path,
    *,
    user: str,
    parent: str,
    address: Mapping[str, str],
    storage: Mapping[str, Any] | None = None,
    account: str = ACCOUNT,
    qos: str = QOS,
    root: str = STORAGE,
) -> Path:
    """Copy the shipped example and fill it in, as the operator of this site would."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(EXAMPLE, directory)
    ssh = {
        "ansible_ssh_common_args": f"-F {STATE}/ssh_config",
        "ansible_control_path": f"/tmp/.caesar-testbed-ssh/{SITE}-%C",
    }
    # Connections of their own, since they are other people's.
    control = f"/tmp/.caesar-testbed-ssh/{SITE}"
    submit = ssh | {"ansible_host": "planner", "ansible_user": user, "ansible_control_path": f"{control}-{user}"}
    services = ssh | {"ansible_host": "kube", "ansible_user": "root", "ansible_control_path": f"{control}-services"}
    change(
        directory / "hosts.yml",
        {
            "all/children/slurm_submit_hosts/hosts/submit": submit,
            "all/children/planners/hosts/services": services
            | {"ansible_become": True, "machine_address": address["kube"]},
        },
    )
    change(
        directory / "group_vars/all/main.yml",
        {
            "testbed_name": SITE, "testbed_storage_root": root, "caesar_rest_platform": "kube",
            "caesar_rest_namespace": SERVICES,
        },
    )  # fmt: skip
    rest = yaml.safe_load((STATE / "caesar-rest.yml").read_text())
    (directory / "group_vars/all/caesar_rest.yml").write_text(
        yaml.safe_dump(
            {
                # The node holds both images, as if they had been pulled.
                "caesar_rest_image": rest["image"],
                "caesar_rest_address": address["kube"],
                # Beside that of the testbed itself.
                "caesar_rest_node_port": 30032,
                "caesar_rest_storage": {"host_path": root},
                "mongodb_image": mongo_image.REFERENCE,
                "mongodb_storage": {"storage_class": DATABASE_CLASS},
            }
        )
    )
    images = yaml.safe_load((STATE / "images.yml").read_text())["images"]
    platforms = yaml.safe_load((directory / "group_vars/all/platforms.yml").read_text())["virtual_platforms"]
    for platform, (name, uid) in zip(platforms, PLATFORMS.items(), strict=True):
        platform |= {"name": name, "uid": uid}
    change(
        directory / "group_vars/all/platforms.yml",
        {
            "physical_platforms/cirasa/parent_account": parent,
            "physical_platforms/cirasa/partition": "vp",
            "physical_platforms/cirasa/qos": qos,
            "physical_platforms/kube/kubeconfig": str(kubeconfig(directory / "kubeconfig.cfg", account)),
            "physical_platforms/kube/context": "site",
            "physical_platforms/kube/storage": dict(storage or {"volume": "site-{name}"}),
            # The node holds it already, as if it had been pulled.
            "physical_platforms/kube/image": images[0]["kubernetes"],
            # A site's nodes have the cores that they give; this one has two.
            "physical_platforms/kube/cpu_allocation_ratio": 32,
            "virtual_platforms": platforms,
        },
    )
    return directory


def change(file: Path, values: Mapping[str, Any]) -> None:
    """Put values into a YAML file, each by its path."""
    document = yaml.safe_load(file.read_text())
    for path, value in values.items():
        *parents, last = path.split("/")
        place = document
        for part in parents:
            place = place[part]
        assert last in place, f"{file} has no {path}"
        place[last] = value
    file.write_text(yaml.safe_dump(document, sort_keys=False))


# What the site looks like.


def seen() -> dict[str, str]:
    """Everything that must stay as it is, and nothing that is the testbed's on this site."""
    looks: dict[str, Callable[[], str]] = {
        **{f"files of {name}": partial(files, name) for name in ("slurm", "planner")},
        **{f"services of {name}": partial(services, name) for name in ("slurm", "planner", "kube")},
        "accounts": accounts,
        "objects": objects,
        "storage": storage,
    }
    with ThreadPoolExecutor(len(looks)) as pool:
        return dict(zip(looks, pool.map(lambda look: look(), looks.values()), strict=True))


def storage() -> str:
    """What lies on the shared storage outside the testbed's own directory, but for a database that is written to."""
    return machine("planner").check_output(
        "cd /mnt/storage && find . \\( -path ./site -o -path ./site-database -o -path './mongodb/*' \\) -prune "
        "-o -printf '%p %y %m %U %G %s %T@\\n' | sort"
    )


def files(name: str) -> str:
    """Names, owners, modes, times and contents of what configures a machine; the state of packages too."""
    # But for the copies that useradd and its like leave of what they change.
    return machine(name).check_output(
        "roots='/etc /usr/lib/systemd /usr/local /opt /var/lib/dpkg/status /root/.ssh'; "
        "not='-name passwd- -o -name group- -o -name *shadow-'; set -f; { "
        "find $roots ! \\( $not \\) -printf '%p %y %m %u %g %T@ %l\\n'; "
        "find $roots -type f ! \\( $not \\) -print0 | xargs -0 sha256sum; } | sort"
    )


def contents(name: str) -> str:
    """The same without times, for a host where files were made and taken away."""
    lines = (line.split(" ") for line in files(name).splitlines())
    return "\n".join(" ".join(word for word in line if not word[:10].isdigit()) for line in lines)


def services(name: str) -> str:
    """Units with their processes, which a restart would change; without what each login makes."""
    text = machine(name).check_output(
        "systemctl show --property=Id,ActiveState,SubState,MainPID,UnitFileState,ExecMainStartTimestamp "
        "'*.service' '*.socket' '*.timer'"
    )
    passing = ("user@", "user-runtime-dir@", "systemd-tmpfiles", "planner@site-", "caesar-voter", "apt-", "dpkg-")
    units = (sorted(unit.splitlines()) for unit in text.split("\n\n"))
    return "\n".join(
        sorted(
            " ".join(unit)
            for unit in units
            if not any(line.startswith(f"Id={word}") for line in unit for word in passing)
        )
    )


def accounts() -> str:
    """All of Slurm's accounts, users, associations and QOS but the managed part."""
    slurm = machine("slurm")
    managed = {*PLATFORMS, MADE}
    kept = []
    for what, columns in (
        ("qos", "Name,Priority,Flags,GrpTRES,MaxWall,MaxTRES,UsageFactor"),
        ("account", "Account,Description,Organization"),
        ("user", "User,DefaultAccount,AdminLevel"),
        (
            "assoc",
            "Account,User,Cluster,ParentName,Share,Priority,GrpTRES,GrpTRESMins,GrpJobs,GrpSubmit,GrpWall,MaxTRES,MaxJobs,"
            "MaxSubmit,MaxWall,QOS,DefaultQOS",
        ),
    ):
        rows = slurm.check_output(f"sacctmgr -nP show {what} format={columns}").splitlines()
        kept += [f"{what} {row}" for row in rows if not managed & set(row.split("|")[:2])]
    kept += slurm.check_output("sacctmgr -nP show account withcoord format=Account,Coordinators").splitlines()
    return "\n".join(sorted(line for line in kept if line.split("|")[0] not in managed))


def kinds() -> str:
    """All that Kubernetes can list, with commas, but heartbeats and what happened: they change by themselves."""
    names = machine("kube").check_output("kubectl api-resources --verbs=list -o name").split()
    return ",".join(name for name in names if not name.startswith(("events", "leases", "componentstatuses")))


def made_on_kubernetes() -> set[str]:
    """Objects outside namespaces, as kind/name, that the testbed made on this site."""
    label = f"app.kubernetes.io/instance={SITE}"
    listed = json.loads(machine("kube").check_output(f"kubectl get {kinds()} -A -l {label} -o json"))["items"]
    return {f"{item['kind']}/{item['metadata']['name']}" for item in listed if "namespace" not in item["metadata"]}


def objects() -> str:
    """All of Kubernetes' objects but those of the managed label and in its namespaces, versions and all."""
    found = json.loads(machine("kube").check_output(f"kubectl get {kinds()} -A -o json --show-managed-fields"))["items"]
    tenants = {platform["name"] for platform in TENANTS}
    kept = []
    for item in found:
        metadata = item["metadata"]
        labels = metadata.get("labels") or {}
        where = metadata["name"] if item["kind"] == "Namespace" else metadata.get("namespace")
        if item["kind"] == "IPAddress":  # a Service's, outside its namespace
            where = item["spec"]["parentRef"].get("namespace")
        if labels.get("app.kubernetes.io/instance") == SITE or where in (*NAMESPACES, SERVICES):
            continue
        # What other tests have left to the planners of the testbed itself, which tidy up in their own time.
        if item["kind"] in ("Job", "Pod") and where in tenants:
            continue
        given = metadata["name"] in VOLUMES
        if given or item["kind"] in ("Node", "ResourceQuota"):
            # A node reports every few minutes, and a volume that is given away is written to by its claim.
            item.pop("status", None)
            item["spec"].pop("claimRef", None)
            for key in ("resourceVersion", "managedFields", "annotations", "finalizers"):
                metadata.pop(key, None)
        kept.append(json.dumps(item, sort_keys=True))
    return "\n".join(sorted(kept))


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs, line by line, for people."""
    found = []
    for part, text in after.items():
        old, new = set(before[part].splitlines()), set(text.splitlines())
        found += [f"{part}: - {line[:400]}" for line in sorted(old - new)]
        found += [f"{part}: + {line[:400]}" for line in sorted(new - old)]
    return found
