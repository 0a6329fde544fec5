"""What an inventory must say of clusters that exist already, and must not say of those that are made. Pure.

A cluster is made where its group has machines: `slurm_controllers`, `kubernetes_nodes`. Else it is a site's, reached
through a submit host in `slurm_submit_hosts`, or through a kubeconfig.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: What only a cluster of a site has to say.
SITE_KEYS = {
    "slurm": ("partition", "qos", "disc_tres"),
    "kubernetes": ("kubeconfig", "context", "storage", "image"),
}
GROUPS = {"slurm": "slurm_controllers", "kubernetes": "kubernetes_nodes"}
STORAGE_KEYS = ("nfs", "host_path", "volume", "storage_class")
#: An image's reference with its registry, and a tag or digest: what a cluster can pull.
REFERENCE = re.compile(r"[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+(:[\w.-]+|@sha256:[0-9a-f]{64})")


def is_site(cluster: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> bool:
    """Whether a physical platform exists already, instead of being made."""
    return not groups.get(GROUPS.get(cluster.get("kind", ""), ""))


def site_platforms(
    physical: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Those physical platforms that exist already."""
    return {name: dict(cluster) for name, cluster in physical.items() if is_site(cluster, groups)}


def site_faults(physical: Any, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """What is wrong, one sentence each; what is no mapping is somebody else's to say."""
    found: list[str] = []
    for name, cluster in physical.items() if isinstance(physical, Mapping) else ():
        kind = cluster.get("kind") if isinstance(cluster, Mapping) else None
        if kind not in GROUPS:
            continue
        where = f"physical_platforms.{name}"
        if not is_site(cluster, groups):
            found += [
                f"{where}.{key} is for a cluster that exists already, but {GROUPS[kind]} has machines that make one: "
                "take one of them away"
                for key in SITE_KEYS[kind]
                if key in cluster
            ]
        elif kind == "slurm":
            found += _slurm(where, cluster, groups)
        else:
            found += _kubernetes(where, cluster)
    return found


def told(answer: Mapping[str, Any] | None, host: str) -> list[str]:
    """The faults in what one of the modules `slurm_site`, `kubernetes_site` and `site_host` answered.

    A host that does not answer, or that refuses to become root, is a fault too.
    """
    if not answer or answer.get("skipped"):
        return []
    if "faults" in answer:
        return list(answer["faults"])
    if answer.get("unreachable"):
        return [f"{host} is not reached by ssh: {answer.get('msg', 'no reason given')}"]
    return [f"{host}: {answer.get('msg', 'no answer')}"]


def _text(where: str, value: Any, what: str) -> Iterator[str]:
    if not isinstance(value, str) or not value:
        yield f"{where} is {value!r}: give {what}"


def _slurm(where: str, cluster: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if not groups.get("slurm_submit_hosts"):
        yield (
            f"{where} has no machines: put the host where the site's sacctmgr and sbatch run into the group "
            "slurm_submit_hosts, or machines to make a Slurm on into slurm_controllers and slurm_nodes"
        )
    yield from _text(f"{where}.partition", cluster.get("partition"), "the partition that jobs are to go to")
    if "nodes" in cluster:
        yield f"{where}.nodes is for a Slurm that is made here: take it away, the site's nodes are what they are"
    if "qos" in cluster:
        yield from _text(f"{where}.qos", cluster["qos"], "the name of a QOS that has the flag DenyOnLimit")
    if cluster.get("disc_tres", "gres/disk") not in ("", "gres/disk"):
        yield f"{where}.disc_tres is {cluster['disc_tres']!r}: give gres/disk, or '' where Slurm counts no discs"


def _kubernetes(where: str, cluster: Mapping[str, Any]) -> Iterator[str]:
    yield from _text(f"{where}.kubeconfig", cluster.get("kubeconfig"), "the path of a kubeconfig on the controller")
    image = cluster.get("image")
    if not isinstance(image, str) or not REFERENCE.fullmatch(image):
        yield (
            f"{where}.image is {image!r}: give the jobs' image as the cluster pulls it, such as "
            "registry.example.org/caesar/aegean-job:2.3.5; docs/site.md says how it gets there"
        )
    yield from _storage(f"{where}.storage", cluster.get("storage"))


def _storage(where: str, storage: Any) -> Iterator[str]:
    ways = "nfs: {server, path}, host_path, volume or storage_class"
    if not isinstance(storage, Mapping) or not storage:
        yield f"{where} is {storage!r}: give {ways}, by which pods see the shared storage"
        return
    for key in storage:
        if key not in STORAGE_KEYS:
            yield f"{where} has the unknown key {key!r}: give {ways}"
    given = [key for key in STORAGE_KEYS if key in storage]
    if len(given) > 1 and given != ["volume", "storage_class"]:
        yield f"{where} has {' and '.join(given)}: give one; volume may have a storage_class beside it"
    nfs = storage.get("nfs")
    if "nfs" in storage and (not isinstance(nfs, Mapping) or sorted(nfs) != ["path", "server"]):
        yield f"{where}.nfs is {nfs!r}: give server and path"
    path = storage.get("host_path")
    if "host_path" in storage and not (isinstance(path, str) and path.startswith("/")):
        yield f"{where}.host_path is {path!r}: give an absolute path on the nodes"
    volume = storage.get("volume")
    if "volume" in storage and "{name}" not in str(volume):
        yield f"{where}.volume is {volume!r}: put {{name}} into it, since a volume goes with one claim only"
