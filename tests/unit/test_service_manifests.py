"""What caesar-rest and its database are made of."""

from __future__ import annotations

import pytest
import service_manifests as made


def containers(items: list[made.Object], kind: str) -> list[made.Object]:
    return [each for item in items if item["kind"] == kind for each in item["spec"]["template"]["spec"]["containers"]]


def test_a_password_that_is_changed_does_not_make_the_database_unready() -> None:
    """Nor one that is another than the files have: what is to be done then is said by the role, which must reach it."""
    [container] = containers(made.mongodb(), "StatefulSet")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "readyz" not in str(container[probe])


@pytest.mark.parametrize("engine", ["ferretdb", "mongodb"])
def test_a_database_that_asks_for_no_password_hears_nobody_but_its_own_machine(engine: str) -> None:
    [usual] = containers(made.mongodb(mongodb_engine=engine), "StatefulSet")
    [alone] = containers(made.mongodb(mongodb_engine=engine, mongodb_alone=True), "StatefulSet")
    said = {"ferretdb": "--listen-addr=127.0.0.1:27017", "mongodb": "--bind_ip 127.0.0.1"}[engine]
    asks = {"ferretdb": "--test-enable-new-auth", "mongodb": "--auth"}[engine]
    assert said in " ".join(alone["args"])
    assert said not in " ".join(usual["args"])
    assert asks in usual["args"]
    assert asks not in alone["args"]
    # MongoDB's image asks for passwords where it has one.
    assert "PASSWORD" not in str(alone.get("env"))
    # The node is somebody else to it: none of its probes would find the port.
    assert "startupProbe" in alone
    assert not {"readinessProbe", "livenessProbe"} & set(alone)
    for name in ("image", "volumeMounts", "securityContext", "resources"):
        assert alone[name] == usual[name]


@pytest.mark.parametrize(
    ("path", "nodes", "bound"),
    [
        ("/mnt/storage/mongodb", ["kube", "worker"], ""),
        ("/var/lib/caesar-mongodb", ["kube", "worker"], "kube"),
        ("/mnt/storage-of-others", ["kube"], "kube"),
        ("/mnt/other", [], ""),
    ],
)
def test_files_that_one_node_has_are_looked_for_there(path: str, nodes: list[str], bound: str) -> None:
    items = made.mongodb(mongodb_storage={"host_path": path}, groups={"kubernetes_nodes": nodes})
    [volume] = [item["spec"] for item in items if item["kind"] == "PersistentVolume"]
    terms = volume.get("nodeAffinity", {}).get("required", {}).get("nodeSelectorTerms", [])
    assert [value for term in terms for each in term["matchExpressions"] for value in each["values"]] == (
        [bound] if bound else []
    )


def test_mongodb_s_own_image_reads_the_password_from_a_file() -> None:
    items = made.mongodb(mongodb_engine="mongodb", mongodb_uid=999)
    [container] = containers(items, "StatefulSet")
    environment = {each["name"]: each["value"] for each in container["env"]}
    [place] = [each["mountPath"] for each in container["volumeMounts"] if each["name"] == "password"]
    assert environment["MONGO_INITDB_ROOT_PASSWORD_FILE"] == f"{place}/password"
    assert "s3cr" not in str([item for item in items if item["kind"] != "Secret"])
    # The shell of the probe gets one argument after --eval, with no quotes lost on the way.
    assert container["readinessProbe"]["exec"]["command"][2].endswith(
        '''mongosh --quiet --norc --eval "quit(db.adminCommand({ping: 1}).ok === 1 ? 0 : 1)"'''
    )


@pytest.mark.parametrize(("node", "bound"), [("", None), ("kube", {"kubernetes.io/hostname": "kube"})])
def test_the_application_runs_where_its_address_is(node: str, bound: dict[str, str] | None) -> None:
    pods = [
        item["spec"]["template"]["spec"].get("nodeSelector")
        for item in made.caesar_rest(caesar_rest_node=node)
        if item["kind"] == "Deployment"
    ]
    assert pods == [bound, None]


def test_each_part_of_caesar_rest_has_its_container() -> None:
    pods = {
        item["metadata"]["name"]: item["spec"]["template"]["spec"]
        for item in made.caesar_rest()
        if item["kind"] == "Deployment"
    }
    containers = {name: [each["args"] for each in pod["containers"]] for name, pod in pods.items()}
    assert containers == {"caesar-rest": [["app"]], "caesar-rest-jobmonitor": [["monitor"], ["accounter"]]}
    for container in pods["caesar-rest-jobmonitor"]["containers"]:
        [alive] = [each["value"] for each in container["env"] if each["name"] == "ALIVE_FILE"]
        assert alive in str(container["startupProbe"])
        assert alive in str(container["livenessProbe"])
