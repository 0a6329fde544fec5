"""A testbed of older software is brought to what the checkout says, with its state; what cannot be done is said first.

It runs after the others of this scenario, by its name.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import astronomer
import httpx
import pytest
from astronomer import CAESAR_REST, arrive
from handles import PROJECT, STATE, machine, members
from rebuilding import ASSOCIATIONS, MINUTES, UNTIL_TOLD, kubernetes_records, made_at, play, write_down
from test_caesar_rest import KUBECTL
from test_slurm import ended, submit
from testinfra.host import Host

Command = Callable[..., subprocess.CompletedProcess[str]]
rest = astronomer.rest
#: Debian's packages of Slurm again, with a revision before theirs: to apt and dpkg they are an older version.
AGE_SLURM = r"""
set -eu
cd "$(mktemp -d)"
form='${source:Package} ${Package} ${db:Status-Status}\n'
version=$(dpkg-query --show --showformat='${Version}' slurm-client)
apt-get -qq update
apt-get -qq download $(dpkg-query --show --showformat="$form" | awk '$1 == "slurm-wlm" && $3 == "installed" {print $2}')
mkdir aged
for package in *.deb; do
    dpkg-deb --raw-extract "$package" tree
    sed -i "s/^Version: .*/&~aged1/; s/(= $version)/(= $version~aged1)/g" tree/DEBIAN/control
    dpkg-deb -Zgzip -z1 --build tree "aged/$package" >/dev/null
    rm -r tree
done
DEBIAN_FRONTEND=noninteractive dpkg --install --force-confold aged/*.deb
systemctl restart 'slurmd@*' || true
"""
#: A node's programs of Kubernetes again, with a version before theirs in place of it, and that version for what kubeadm
#: keeps of its cluster. The control plane's images only get its name: what is in them says their own.
AGE_KUBERNETES = r"""
set -eu
export KUBECONFIG=/etc/kubernetes/admin.conf
wanted=$1 aged=$2
programs=$(readlink -f /usr/local/bin/kubelet)
programs=${programs%/bin/*}
cp -a "$programs" /opt/kubernetes/aged
LC_ALL=C sed -i "s/$wanted/$aged/g" /opt/kubernetes/aged/bin/kubernetes
for link in $(find /usr/local/bin -lname "$programs/*"); do
    ln -sfn "/opt/kubernetes/aged/bin/$(basename "$link")" "$link"
done
if [ -e $KUBECONFIG ]; then
    for part in apiserver controller-manager scheduler; do
        image=registry.k8s.io/kube-$part
        ctr --namespace k8s.io images tag --force "$image:$wanted" "$image:$aged"
        sed -i "s|$image:$wanted|$image:$aged|" /etc/kubernetes/manifests/kube-$part.yaml
    done
    until kubectl -n kube-system get configmap kubeadm-config -o yaml >/tmp/kubeadm-config; do sleep 1; done
    sed "s/^\( *kubernetesVersion: \).*/\1$aged/" /tmp/kubeadm-config >/tmp/kubeadm-config.aged
    until kubectl replace -f /tmp/kubeadm-config.aged; do sleep 1; done
fi
for image in $(ctr --namespace k8s.io images ls -q | grep ":$wanted\$"); do
    ctr --namespace k8s.io images rm "$image"
done
rm -r "$programs" /var/lib/containerd/imported-"$(basename "$programs")"
systemctl restart kubelet
"""
#: A ledger as it was before the migration 0003, which made just this.
REWIND = """
import sqlite3
ledger = sqlite3.connect("/var/lib/caesar-planner/slurm-account-001/ledger.sqlite")
ledger.executescript(
    "DROP TABLE keys; DROP INDEX ix_offersets_client; UPDATE alembic_version SET version_num = '0002'"
)
"""


def lines_of(run: subprocess.CompletedProcess[str], part: str) -> list[list[str]]:
    """The table's lines about a part, in words."""
    return [line.split() for line in run.stdout.splitlines() if line.strip().startswith(part)]


def upgrade(*arguments: str) -> subprocess.CompletedProcess[str]:
    return play("playbooks/upgrade.yml", *CAESAR_REST, *arguments)


def age(script: str, names: list[str], *arguments: str) -> None:
    """Run a script on several machines at once."""
    under_way = [subprocess.Popen(["ssh", "-F", STATE / "ssh_config", name, "sh", "-s", *arguments],
                                  stdin=subprocess.PIPE, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                 for name in names]  # fmt: skip
    for process in under_way:
        said, _ = process.communicate(script, timeout=300)
        assert process.returncode == 0, said[-3000:]


def kubernetes_versions(kube: Host) -> set[str]:
    """What kubeadm keeps of the cluster, its control plane's pods and its kubelets; less while that does not answer."""
    kept, pods, nodes = (
        kube.run(f"{KUBECTL} get {what}").stdout
        for what in (
            "configmap -n kube-system kubeadm-config -o jsonpath='{.data.ClusterConfiguration}'",
            # Not their status, which names an image by any of its names.
            "pods -n kube-system -l tier=control-plane -o jsonpath='{.items[*].spec.containers[0].image}'",
            "nodes -o jsonpath='{.items[*].status.nodeInfo.kubeletVersion}'",
        )
    )
    found = re.findall(r"^kubernetesVersion: (\S+)$", kept, re.MULTILINE)
    return {*found, *re.findall(r"/kube-[\w-]+:(\S+)", pods), *nodes.split()}


def age_kubernetes(kube: Host) -> tuple[str, str]:
    """Make the cluster one of the patch release before its own; give that, and what it was."""
    [wanted] = kubernetes_versions(kube)
    minor, _, patch = wanted.rpartition(".")
    aged = f"{minor}.{int(patch) - 1}"
    assert len(aged) == len(wanted), "it stands in a program in the place of the other"
    age(AGE_KUBERNETES, members("kubernetes_nodes"), wanted, aged)
    deadline = time.monotonic() + 180
    while kubernetes_versions(kube) != {aged}:
        assert time.monotonic() < deadline, kubernetes_versions(kube)
        time.sleep(1)  # as nothing tells
    pods = "pod -n kube-system -l tier=control-plane"
    kube.check_output(f"{KUBECTL} wait {pods} --for=condition=Ready --timeout=120s")
    return aged, wanted


def test_a_way_back_is_refused_before_anything_is_touched() -> None:
    before = {name: made_at(name) for name in members("local_machines")}
    copies = sorted((STATE / "backups").glob("upgrade-*"))
    run = play("playbooks/upgrade.yml", "-e", "local_machines_suite=bookworm", "-e", "confirm=yes")
    assert run.returncode != 0
    said = " ".join(run.stdout.split())
    assert "Nothing was changed:" in said
    assert "is 13 and would go back to 12" in said
    assert "which does not read what the newer one wrote" in said
    assert {name: made_at(name) for name in before} == before
    assert sorted((STATE / "backups").glob("upgrade-*")) == copies


@MINUTES
@pytest.mark.timeout(1800)
def test_older_programs_and_ledgers_are_upgraded_around_what_they_keep(
    planner: Host, slurm: Host, kube: Host, kubectl: Callable[[str], Any], rest: httpx.Client, caesar_vote: Command,
    fits: Path, tmp_path: Path,
) -> None:  # fmt: skip
    first = caesar_vote("run", "--json", "--only", "slurm-account-001", "--outdir", str(tmp_path / "a"), str(fits))
    assert first.returncode == 0, first.stdout + first.stderr
    # Another program: the same with a line more.
    other = tmp_path / "checkout"
    shutil.copytree(PROJECT / "planner_app", other / "planner_app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "uv.lock", other)
    shutil.copy(PROJECT / "pyproject.toml", other)
    with (other / "planner_app/planner_app/__init__.py").open("a") as file:
        file.write('"""Older."""\n')
    run = play("site.yml", "--tags", "planners,voter", *CAESAR_REST, "-e", f"planner_app_bundle_project={other}")
    assert run.returncode == 0, run.stdout[-4000:]
    planner.check_output("systemctl stop planner@slurm-account-001")
    planner.check_output("python3 -c %s", REWIND)
    hosts = [*members("slurm_controllers"), *members("slurm_nodes"), *members("planners")]
    age(AGE_SLURM, hosts)
    version = slurm.check_output("dpkg-query --show --showformat='${Version}' slurmctld")
    assert version.endswith("~aged1")
    older, newer = age_kubernetes(kube)
    write_down(kube, "before-upgrade")
    somebody = arrive(rest, fits)

    job = submit(planner, "slurm-account-002", "--mem=100M --time=30 --nodelist=desktop-1", UNTIL_TOLD)
    associations, objects, documents = (
        slurm.check_output(ASSOCIATIONS), kubernetes_records(kubectl), somebody.documents(),
    )  # fmt: skip
    looked = upgrade("--check")
    assert looked.returncode == 0, looked.stdout[-4000:]
    # The controller, both machines of virtual nodes together, the one that submits.
    assert [words[-2:] for words in lines_of(looked, "Slurm")] == [[version, version.removesuffix("~aged1")]] * 3
    assert [words[-2:] for words in lines_of(looked, "Kubernetes")] == [[older, newer]] * 2
    assert [words[-2:] for words in lines_of(looked, "ledger of slurm-account-001")] == [["0002", "0003"]]
    assert slurm.check_output("dpkg-query --show --showformat='${Version}' slurmctld") == version

    machines = {name: made_at(name) for name in members("local_machines")}
    run = upgrade("-e", "confirm=yes", "-e", "drain=nowait")
    assert run.returncode == 0, run.stdout[-6000:]
    assert {name: made_at(name) for name in machines} == machines
    # The same cluster, of another version, with what was written into it; caesar-rest goes on where it was.
    assert kubernetes_versions(kube) == {newer}
    assert kubernetes_records(kubectl).items() >= objects.items()
    assert somebody.documents() == documents
    somebody.await_end(somebody.submit())
    for name in hosts:
        versions = machine(name).check_output(
            "dpkg-query --show --showformat='${source:Package} ${Version}\\n' | grep ^slurm-wlm | sort -u"
        )
        assert versions.split() == ["slurm-wlm", version.removesuffix("~aged1")], name
    # Not waited for, the job outlived its slurmd and its slurmctld.
    assert slurm.check_output(f"squeue -h -j {job} -o %T") == "RUNNING"
    planner.check_output(f"sudo -u slurm-account-002 touch /mnt/storage/jobs/slurm-account-002/stop-{job}")
    assert ended(planner, job) == "COMPLETED"
    assert slurm.check_output(ASSOCIATIONS) == associations
    assert set(slurm.check_output("sinfo -h -N -o %t").split()) == {"idle"}
    # The session of the older ledger is known, and its outputs come home once more.
    ballot = json.loads(first.stdout)["id"]
    again = caesar_vote("outputs", "--outdir", str(tmp_path / "b"), ballot)
    assert again.returncode == 0, again.stdout + again.stderr
    # Copies from before lie in the state directory, closed to others, the ledger's of its old revision.
    kept = max((STATE / "backups").glob("upgrade-*"))
    assert kept.stat().st_mode & 0o777 == 0o700
    copies = ["caesar-rest.mongodb", "kube-etcd.tar", "planner-ledgers.tar", "slurm-slurm.tar", "software.yml"]
    assert sorted(file.name for file in kept.iterdir()) == copies
    with tarfile.open(kept / "slurm-slurm.tar") as archive:
        assert "./slurmctld/clustername" in archive.getnames()
        dump = archive.extractfile("./slurm_acct_db.sql")
        assert dump is not None
        assert b"_assoc_table" in dump.read()

    nothing = upgrade("-e", "confirm=yes")
    assert nothing.returncode == 0, nothing.stdout[-4000:]
    assert "Nothing was changed." in nothing.stdout
    assert "changed=0" in nothing.stdout
    assert not any(f"changed={n}" in nothing.stdout for n in range(1, 10))
