"""A planner can do what its platform needs, and nothing else: on the real machines, with the planners' own rights."""

from __future__ import annotations

import json
import random
import re
import ssl
import string
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from handles import PHYSICAL, PLATFORMS
from sessions import Document, ended, planner_client, python_request, refused, started, stdout, with_data
from testinfra.host import Host

NAMES = [platform["name"] for platform in PLATFORMS]
KIND = {platform["name"]: PHYSICAL[platform["physical_platform"]]["kind"] for platform in PLATFORMS}
UID = {platform["name"]: platform["uid"] for platform in PLATFORMS}
ACCOUNTS = [name for name in NAMES if KIND[name] == "slurm"]
NAMESPACES = [name for name in NAMES if KIND[name] == "kubernetes"]
ONE_OF_EACH = [ACCOUNTS[-1], NAMESPACES[-1]]
IMAGE = "caesar/aegean-job:2.3.5"


@pytest.fixture(scope="module")
def clients(address: dict[str, str]) -> Iterator[dict[str, httpx.Client]]:
    """A client of each planner."""
    made = {name: planner_client(address, name) for name in NAMES}
    yield made
    for client in made.values():
        client.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_planners_user_reads_nothing_of_another(planner: Host, name: str) -> None:
    others = [other for other in NAMES if other != name]
    secrets = [f"/etc/caesar-planner/{other}{end}" for other in others for end in (".yml", ".tokens")]
    secrets += [f"/etc/caesar-planner/{other}.kubernetes.json" for other in others if KIND[other] == "kubernetes"]
    closed = [f"{top}/{other}" for top in ("/var/lib/caesar-planner", "/mnt/storage/jobs") for other in others]
    # All are there, for root at least: else nothing would be shown.
    planner.check_output("ls -d " + " ".join(secrets + closed))
    look = "for f in {}; do head -c1 $f >/dev/null 2>&1 && echo $f; ls $f/ >/dev/null 2>&1 && echo $f/; done; true"
    assert planner.check_output(f"sudo -u {name} sh -c '{look.format(' '.join(secrets + closed))}'") == ""
    mine = planner.run(f"sudo -u {name} head -c1 /etc/caesar-planner/{name}.tokens")
    assert mine.rc == 0, "its own it must read"
    for place in ("/etc/caesar-planner", "/mnt/storage/data", "/mnt/storage/images", f"/mnt/storage/jobs/{others[0]}"):
        assert planner.run(f"sudo -u {name} touch {place}/x").rc != 0, f"{place} can be written to"


@pytest.mark.parametrize("name", ACCOUNTS)
def test_a_planners_user_submits_to_no_other_account(planner: Host, name: str) -> None:
    for other in [*(account for account in ACCOUNTS if account != name), "root"]:
        done = planner.run(f"cd / && sudo -u {name} sbatch --account={other} --output=/dev/null --wrap true")
        assert done.rc != 0
        assert "Invalid account" in done.stderr


def test_a_planners_user_touches_no_other_accounts_job(planner: Host) -> None:
    mine, theirs = ACCOUNTS[0], ACCOUNTS[1]
    submit = f"cd / && sudo -u {theirs} sbatch --parsable --output=/dev/null --time=1 --begin=now+1hour --wrap true"
    job = planner.check_output(submit)
    try:
        for command in (f"scancel {job}", f"scontrol hold {job}", f"scontrol update jobid={job} timelimit=2"):
            assert planner.run(f"sudo -u {mine} {command}").rc != 0, command
        assert planner.check_output(f"squeue -h -o %T -j {job}") == "PENDING"
    finally:
        planner.run(f"scancel {job}")


def api_of(credentials: Document) -> httpx.Client:
    """The API server, with a planner's own rights."""
    return httpx.Client(
        base_url=credentials["server"],
        headers={"Authorization": f"Bearer {credentials['token']}"},
        verify=ssl.create_default_context(cadata=credentials["ca"]),
        trust_env=False,
        timeout=30,
    )


@pytest.mark.parametrize("name", NAMESPACES)
def test_a_planners_token_is_good_for_its_own_jobs_alone(planner: Host, name: str) -> None:
    credentials = json.loads(planner.check_output(f"cat /etc/caesar-planner/{name}.kubernetes.json"))
    own, other = f"/api/v1/namespaces/{name}", f"/api/v1/namespaces/{next(n for n in NAMESPACES if n != name)}"
    batch, apps = other.replace("/api/v1", "/apis/batch/v1"), own.replace("/api/v1", "/apis/apps/v1")
    with api_of(credentials) as api:
        assert api.get(f"{own}/pods").status_code == 200
        pod = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
        forbidden = [
            *(("GET", f"{other}/{what}", None) for what in ("pods", "events", "secrets", "configmaps")),
            ("GET", f"{batch}/jobs", None),
            ("POST", f"{batch}/jobs", {"metadata": {"name": "x"}}),
            ("DELETE", f"{batch}/jobs/x", None),
            *(("GET", f"{own}/{what}", None) for what in ("secrets", "configmaps", "serviceaccounts")),
            ("GET", f"{own}/secrets/planner-token", None),
            ("POST", f"{own}/pods", pod),
            ("POST", f"{own}/pods/x/exec", {}),
            ("POST", f"{own}/secrets", {"metadata": {"name": "x"}}),
            ("POST", f"{own}/serviceaccounts/planner/token", {}),
            ("PATCH", f"{own}/resourcequotas/quota", {}),
            ("DELETE", f"{own}/limitranges/limits", None),
            ("POST", f"{apps}/deployments", {"metadata": {"name": "x"}}),
            ("GET", "/api/v1/nodes", None),
            ("GET", "/api/v1/namespaces", None),
            ("GET", "/api/v1/persistentvolumes", None),
        ]
        for method, path, body in forbidden:
            headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
            reply = api.request(method, path, json=body, headers=headers)
            assert reply.status_code == 403, f"{method} {path}: {reply.status_code} {reply.text[:200]}"


def test_a_planners_token_starts_no_pod_as_another_platforms_user(planner: Host, kube: Host) -> None:
    mine, other = NAMESPACES[0], UID[NAMESPACES[1]]
    credentials = json.loads(planner.check_output(f"cat /etc/caesar-planner/{mine}.kubernetes.json"))
    container = {
        "name": "x",
        "image": "x",
        "resources": {"limits": {"cpu": "1", "memory": "64Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    user = {"runAsUser": other, "runAsGroup": other, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "securityContext": user,
        "containers": [container],
    }
    with api_of(credentials) as api:
        jobs = f"/apis/batch/v1/namespaces/{mine}/jobs"
        job = {"metadata": {"name": "as-another"}, "spec": {"backoffLimit": 0, "template": {"spec": pod}}}
        api.post(jobs, json=job).raise_for_status()
        try:
            look = (
                f"for i in $(seq 300); do kubectl get events -n {mine} --field-selector involvedObject.name=as-another "
                "-o jsonpath='{.items[*].message}' | grep . && exit; sleep 0.2; done"
            )
            said = kube.check_output(f"export KUBECONFIG=/etc/kubernetes/admin.conf; {look}")
            assert f"runAsUser and runAsGroup must be {UID[mine]} here" in said
            pods = api.get(f"/api/v1/namespaces/{mine}/pods", params={"labelSelector": "job-name=as-another"})
            assert pods.json()["items"] == []
        finally:
            api.delete(f"{jobs}/as-another", params={"propagationPolicy": "Background"})


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_unit_is_hardened(planner: Host, name: str) -> None:
    said = planner.check_output(f"systemd-analyze security --no-pager planner@{name}.service | tail -1")
    matched = re.search(r"(\d+\.\d+) (\w+)", said)
    assert matched is not None, said
    assert float(matched[1]) <= 2.0, said


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_only_listed_images_run(clients: dict[str, httpx.Client], name: str) -> None:
    def image(**described: Any) -> Document:
        asked = python_request("pass")
        return asked | {"executable": asked["executable"] | {"image": described}}

    wrong = "sha256:" + "0" * 64
    for asked in (
        image(locations=["docker.io/library/python:3.12"]),
        image(locations=["caesar/aegean-job:latest"]),
        image(locations=[IMAGE], digest=wrong),
        image(locations=[f"{IMAGE}@{wrong}"]),
        image(locations=["/etc/passwd"]),
        image(locations=["../../" + IMAGE]),
    ):
        assert "is not among those that run here" in refused(clients[name], asked), asked["executable"]["image"]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_only_the_data_directory_is_mounted(clients: dict[str, httpx.Client], planner: Host, name: str) -> None:
    data = "/mnt/storage/data"
    planner.check_output(
        f"mkdir -p {data}/isolation && echo sky >{data}/isolation/map && ln -sfn /etc {data}/isolation/link "
        f"&& ln -sfn /mnt/storage/jobs {data}/isolation/jobs && ln -sfn ../../jobs {data}/isolation/up"
    )
    try:
        for location in (
            "file:///etc/passwd",
            "file:///mnt/storage/jobs",
            f"file:///mnt/storage/jobs/{NAMES[0]}",
            f"file://{data}/../jobs/x",
            f"file://{data}/isolation/%2e%2e/%2e%2e/jobs",
            f"file://{data}/isolation/link/passwd",
            f"file://{data}/isolation/jobs",
            f"file://{data}/isolation/up",
            f"file://{data}/isolation/map:/etc",
            f"file://{data}",
            f"file://elsewhere{data}/isolation/map",
            "http://169.254.169.254/latest/meta-data/",
            "http://127.0.0.1:8101/health",
            "http://[::1]:8101/health",
        ):
            said = refused(clients[name], with_data(python_request("pass"), location))
            assert said, f"{location} was taken"
            assert "data[0]" in said
        assert refused(clients[name], with_data(python_request("pass"), f"file://{data}/isolation/map")) == ""
    finally:
        planner.check_output(f"rm -r {data}/isolation")


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_data_that_becomes_a_link_is_not_mounted(clients: dict[str, httpx.Client], planner: Host, name: str) -> None:
    place = "/mnt/storage/data/isolation"
    planner.check_output(f"mkdir -p {place}/x && echo sky >{place}/x/map")
    try:
        client = clients[name]
        asked = with_data(python_request("print(open('/data/passwd').read())"), f"file://{place}/x")
        said = client.post("/requests", json=asked).raise_for_status().json()
        planner.check_output(f"rm -r {place}/x && ln -s /etc {place}/x")
        session = said["offers"][0]["meta"]["uuid"]
        body = {"kind": "uri:enum-value-update", "path": "/phase", "value": "ACCEPTED"}
        client.post(f"/sessions/{session}", json=body).raise_for_status()
        document = ended(client, session)
        assert document["phase"] == "FAILED"
        assert "leads through a symbolic link" in document["meta"]["messages"][-1]["message"]
    finally:
        planner.check_output(f"rm -r {place}")


# What a request says reaches the program as it is, and nobody else.

ECHO = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
HOSTILE = [
    "", " ", "'", '"', "''", '"\'"', "\\", "\\'", "a'; touch /tmp/pwned; '", "$(id)", "`id`", "${HOME}", "$HOME",
    "$(HOME)", "$$(HOME)", "$$", "$", "!!", "&& id", "| id", "; id #", "> /tmp/x", "*", "?", "[a-z]", "~", "{a,b}",
    "%s%n", "%j", "\t", "\n", "a\nb", "\nEOF\n", "#SBATCH --account=slurm-account-001", "\n#SBATCH --uid=0\n",
    "\r\n", "--help", "-c", "--", "-", "--bind=/etc:/data", "yes", "NO", "null", "~", "1e3", "- a", "key: value",
    "{{ 7*7 }}", "{% raw %}", "<%= 1 %>", "&anchor", "*alias", "!!python/object:os.system", "\x01", "\x1b[31m",
    "\x7f", "\xe9", "\u2028", "\U0001f52d", "../../etc/passwd", "/etc/passwd", "a" * 5000,
]  # fmt: skip
_AWKWARD = "'\"\\$`!&|;<>(){}[]*?~#%\n\t =:-,@^" + string.ascii_letters + "\u00e9\u4e2d\U0001f52d"


def hostile_words(count: int) -> list[str]:
    """The known bad ones, and others put together from what they consist of; the same in each run."""
    choice = random.Random(20261124)
    made = ["".join(choice.choices(_AWKWARD, k=choice.randint(1, 40))) for _ in range(count)]
    return HOSTILE + made


WORDS = hostile_words(300)
# charliecloud takes a variable from one line.
ENVIRONMENT = {
    f"V{number}": value for number, value in enumerate(word for word in WORDS if "\n" not in word and "\r" not in word)
}
LOOK = """
import glob, json, os
secrets = ["/mnt/storage/jobs", "/etc/caesar-planner", "/var/lib/caesar-planner", "/run/munge/munge.socket.2",
           "/var/run/secrets", "/etc/slurm/slurm.conf"]
def environment(path):
    try:
        return open(path, errors="replace").read()
    except OSError:
        return ""  # another user's
of_the_planner = [path for path in glob.glob("/proc/[0-9]*/environ") if "PYTHONPATH" in environment(path)]
print(json.dumps([os.getuid(), [p for p in secrets if os.path.exists(p)], of_the_planner]))
"""


@pytest.fixture(scope="module")
def sessions(clients: dict[str, httpx.Client]) -> dict[tuple[str, str], str]:
    """The sessions of the tests below by platform and by what they are for, all started before any is waited for."""
    meta = {"name": "x\n#SBATCH --account=root\n$(touch /tmp/pwned)'\"`id`"}
    requests = {
        "words": python_request(ECHO, *WORDS, environment=ENVIRONMENT, meta=meta),
        "entrypoint": python_request("pass"),
        "look": python_request(LOOK),
    }
    requests["entrypoint"]["executable"]["entrypoint"] = "/bin/sh -c 'touch /output/pwned'; $(id)"
    return {(name, what): started(clients[name], request) for what, request in requests.items() for name in ONE_OF_EACH}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_hostile_words_reach_the_program_as_they_are(
    clients: dict[str, httpx.Client], sessions: dict[tuple[str, str], str], slurm: Host, planner: Host, name: str
) -> None:
    session = sessions[name, "words"]
    document = ended(clients[name], session)
    assert document["phase"] == "COMPLETED", document["meta"]["messages"]
    arguments, seen = json.loads(stdout(clients[name], session))
    assert arguments == WORDS
    assert {key: seen.get(key) for key in ENVIRONMENT} == ENVIRONMENT
    # Nothing of the service's own is seen; where its API server is, Kubernetes tells every container.
    more = {key for key in seen if key not in ENVIRONMENT and not key.startswith("KUBERNETES_")}
    assert more <= {"PATH", "HOME", "LANG", "LC_CTYPE", "HOSTNAME", "PWD", "SHLVL", "OLDPWD", "_", "CH_RUNNING"}
    for host in (slurm, planner):
        assert host.run("ls /tmp/pwned").rc != 0


@pytest.mark.parametrize("variable", ["A;id", "X$(id)", "Q'", "A=B", "A\nB", "", "LD PRELOAD"])
def test_a_variable_is_called_as_a_shell_would_have_it(clients: dict[str, httpx.Client], variable: str) -> None:
    for name in ONE_OF_EACH:
        reply = clients[name].post("/requests", json=python_request("pass", environment={variable: "x"}))
        assert reply.status_code == 400, reply.text


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_hostile_entrypoint_is_a_file_that_is_not_there(
    clients: dict[str, httpx.Client], sessions: dict[tuple[str, str], str], name: str
) -> None:
    document = ended(clients[name], sessions[name, "entrypoint"])
    assert document["phase"] == "FAILED"


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_job_sees_no_other_session_and_no_secret(
    clients: dict[str, httpx.Client], sessions: dict[tuple[str, str], str], name: str
) -> None:
    session = sessions[name, "look"]
    assert ended(clients[name], session)["phase"] == "COMPLETED"
    uid, seen, environments = json.loads(stdout(clients[name], session))
    assert uid == next(platform["uid"] for platform in PLATFORMS if platform["name"] == name)
    assert (seen, environments) == ([], [])
