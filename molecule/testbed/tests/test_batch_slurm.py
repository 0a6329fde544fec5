"""The module slurm_accounts on a real Slurm, below an account of the test's own.

What it promises beyond its plan, which tests/unit/test_slurm_plan.py covers: what it foretells comes true, what it
made it finds, whoever kills it or runs it twice loses nothing, and what cannot be done is said before it is tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from batch import Result, Run, play, says, shell, worked
from handles import machine, of_group
from testinfra.host import Host

CONTROLLER = of_group("slurm_controllers")
USERS = {f"batch-{name}": 29100 + number for number, name in enumerate(["a", "b", "c", "co", "op", "no"])}
#: Everything but the test's own, and when it was last changed.
OTHERS = "sacctmgr -nP show assoc | grep -v batch; sacctmgr -nP show qos | grep -v batch"
#: slurmctld, which registers when it starts, is another actor.
WRITES = "sacctmgr -nP show transactions format=actor | grep -c -x -e root -e 'batch.*'"
#: Stands in front of sacctmgr: ends the module, as hard as can be, after (or before) its Nth write.
KILLER = """#!/bin/bash
case "$*" in *" show "*) exec /usr/bin/sacctmgr "$@";; esac
echo >>$BATCH_COUNT; number=$(wc -l <$BATCH_COUNT)
# The parent is timeout(1), its parent the module.
read -r _ _ _ module _ </proc/$PPID/stat
[ $number = "$BATCH_BEFORE" ] && kill -9 $module && sleep 1
/usr/bin/sacctmgr "$@"; code=$?
[ $number = "$BATCH_AFTER" ] && kill -9 $module
exit $code
"""


@pytest.fixture(scope="module")
def controller() -> Host:
    return machine(CONTROLLER)


@pytest.fixture(scope="module")
def cluster(controller: Host) -> str:
    """The cluster's name, with the test's users made before and everything removed after."""
    return controller.check_output("sacctmgr -nP show cluster format=cluster")


@pytest.fixture(scope="module", autouse=True)
def users(controller: Host, cluster: str) -> Iterator[None]:
    remove(controller, cluster)
    make = "; ".join(f"useradd --no-create-home -u {number} {user}" for user, number in USERS.items())
    controller.check_output(f"{make}; mkdir /run/batch && chmod 777 /run/batch")
    controller.run("cat >/run/batch/sacctmgr <<'END'\n" + KILLER + "END\nchmod 755 /run/batch/sacctmgr")
    yield
    remove(controller, cluster)


@pytest.fixture(autouse=True)
def others(controller: Host) -> Iterator[None]:
    """Nothing that is not the test's is changed by any test."""
    before = controller.check_output(OTHERS)
    yield
    assert controller.check_output(OTHERS) == before


def remove(controller: Host, cluster: str) -> None:
    names = ",".join(USERS)
    controller.run(
        f"scancel --user={names}\n"
        f"for i in $(seq 200); do squeue -h --user={names} | grep -q . || break; sleep 0.2; done\n"
        f"sacctmgr -iQ delete user {names}\n"
        "for i in 1 2 3; do sacctmgr -nP show account format=account | grep ^batch | paste -sd, "
        "| xargs -r sacctmgr -iQ delete account; done\n"
        "sacctmgr -iQ delete qos batch,batch-two,batch-three\n"
        f"for user in {' '.join(USERS)}; do userdel $user; done; rm -rf /run/batch"
    )


def account(name: str, *users: str, **limits: Any) -> dict[str, Any]:
    return {"name": f"batch-{name}", "users": [f"batch-{user}" for user in users], "limits": limits}


@pytest.fixture(scope="module")
def module(cluster: str) -> Any:
    """A task with the module; words of Ansible's begin with an underscore."""

    def task(*accounts: dict[str, Any], parent: str = "batch", **options: Any) -> dict[str, Any]:
        words = {key[1:]: options.pop(key) for key in list(options) if key.startswith("_")}
        # Only this test's: nothing that others make at the same time is in its way.
        arguments = {"cluster": cluster, "parent": parent, "qos": "batch", "lock": "/run/batch/lock"}
        return {"slurm_accounts": arguments | {"accounts": list(accounts)} | options} | words

    return task


A = account("a", "a", GrpTRES={"cpu": 4, "mem": "8G"}, GrpJobs=4, MaxWall=60)
B = account("b", "b", GrpTRES={"cpu": 4, "mem": "8G"}, GrpJobs=4, MaxWall=60)
C = account("c", "b", "c", GrpJobs=2, MaxTRESPerJob={"cpu": 2})
JOB = "cd /tmp; sbatch --parsable --uid=batch-{0} --gid=batch-{0} -A batch-{0} --mem=50 -o /dev/null --wrap 'sleep {1}'"


def test_what_is_foretold_is_made_and_found(module: Any) -> None:
    foretold, made, before, again, nothing, after, *_ = play(
        CONTROLLER,
        [
            module(A, B, _check_mode=True),
            module(A, B),
            shell(WRITES),
            module(A, B),
            module(A, B, _check_mode=True),
            shell(WRITES),
        ],
    )
    worked(foretold, made, again, nothing)
    assert foretold["changed"]
    assert foretold["plan"] == made["plan"]
    assert (again["changed"], again["plan"], nothing["changed"], nothing["plan"]) == (False, [], False, [])
    assert before["stdout"] == after["stdout"]  # nothing was written


def test_drift_is_said_in_plain_words_and_undone(module: Any, cluster: str) -> None:
    by_hand = f"""
        sacctmgr -iQ modify account where name=batch-a cluster={cluster} set GrpTRES=cpu=99,mem=-1 GrpWall=5 MaxJobs=1
        sacctmgr -iQ delete user where name=batch-b account=batch-b cluster={cluster}
        sacctmgr -iQ add account batch-x parent=batch cluster={cluster}
        sacctmgr -iQ modify qos where name=batch set flags=-1
    """
    _, drifted, undone, again = play(
        CONTROLLER, [shell(by_hand), module(A, B, _check_mode=True, _diff=True), module(A, B), module(A, B)]
    )
    worked(drifted, undone, again)
    assert drifted["diff"]["before"].splitlines() == [
        "QOS batch: no flags",
        "account batch-a: GrpTRES cpu = 99",
        "account batch-a: GrpWall = 5 min",
        "account batch-a: MaxJobs = 1",
        "account batch-x: QOS batch, by default batch",
        "account batch-x: under batch",
    ]
    assert drifted["diff"]["after"].splitlines() == [
        "QOS batch: DenyOnLimit",
        "account batch-a: GrpTRES cpu = 4",
        "account batch-a: GrpTRES mem = 8192 MiB",
        "user batch-b: in batch-b, by default",
    ]
    assert undone["plan"] == drifted["plan"]
    assert not again["changed"]


def test_killed_between_any_two_steps_the_next_run_ends_in_the_same_state(module: Any, controller: Host) -> None:
    """Killed while a step is made, what it writes goes on without the module, and the next run waits for it."""
    wished = [C, account("a", "a", GrpJobs=9)]
    start, wish = module(A, B), module(*wished)
    show = shell("sacctmgr -nP show assoc | grep batch | sort; sacctmgr -nP show user format=user,defaultaccount")
    _, whole, expected = play(CONTROLLER, [start, wish, show])
    worked(whole)
    steps = len(whole["plan"])
    assert steps >= 5, says(whole)
    rounds = [*(("AFTER", number) for number in range(1, steps + 1)), ("BEFORE", 1), ("BEFORE", steps)]
    tasks = []
    for when, number in rounds:
        environment = {"PATH": "/run/batch:/usr/bin:/bin", "BATCH_COUNT": f"/run/batch/{when}-{number}"}
        killed = module(*wished, _environment=environment | {f"BATCH_{when}": str(number)})
        tasks += [start, killed, wish, show]
    results = iter(play(CONTROLLER, tasks))
    for place, begun, killed, finished, shown in zip(rounds, results, results, results, results, strict=False):
        worked(begun, finished, shown)
        assert killed["failed"], place
        assert "plan" not in killed, place
        assert shown["stdout"] == expected["stdout"], place
    assert controller.run("ls /tmp/slurm-accounts-* /tmp/*batch*").rc != 0  # nothing was left behind


def test_two_runs_at_once_lose_nothing(module: Any, controller: Host) -> None:
    many = {
        parent: [account(f"{parent[6:]}-{number}", GrpJobs=1 + number % 5) for number in range(8)]
        for parent in ("batch-two", "batch-three")
    }
    options = {"qos": "batch", "max_deletions": 100}
    both = [Run(CONTROLLER, [module(*list_, parent=parent, **options)]) for parent, list_ in many.items()]
    both.append(Run(CONTROLLER, [module(*many["batch-two"], parent="batch-two", **options)]))
    worked(*(result for run in both for result in run.results()))
    shown = controller.check_output("sacctmgr -nP show assoc format=account,parentname").splitlines()
    accounts = {row.split("|")[0] for row in shown if row.split("|")[1] in many}
    assert accounts == {one["name"] for list_ in many.values() for one in list_}
    records = controller.check_output("sacctmgr -nP show account format=account").split()
    assert accounts <= set(records)
    worked(*play(CONTROLLER, [module(parent=parent, **options) for parent in many]))


@pytest.mark.parametrize("daemon", ["slurmctld", "slurmdbd"])
def test_without_slurm_there_is_one_error_soon_and_nothing_changes(module: Any, controller: Host, daemon: str) -> None:
    before = controller.check_output(WRITES)
    controller.check_output(f"systemctl stop {daemon}")
    try:
        begun, failed, ended = play(CONTROLLER, [shell("date +%s"), module(account("never", "a")), shell("date +%s")])
    finally:
        controller.check_output("systemctl start slurmdbd && systemctl start slurmctld")
    assert failed["failed"]
    assert failed["msg"].startswith("nothing was changed: ")
    assert ("slurmctld does not answer" if daemon == "slurmctld" else "Connection refused") in failed["msg"]
    assert int(ended["stdout"]) - int(begun["stdout"]) < 30
    ready = "for i in $(seq 300); do sacctmgr -nP show cluster format=controlhost | grep -q . && exit; sleep 0.2; done"
    controller.check_output(ready)
    assert controller.check_output(WRITES) == before


def test_jobs_of_accounts_that_go(module: Any, controller: Host, cluster: str) -> None:
    closed = f"sacctmgr -nP show assoc format=grpsubmit where account=batch-a cluster={cluster} user= | grep -qx 0"
    begun, job, refused, gave_up, is_closed, no_more, opened, more, foretold, cancelled, ended = play(
        CONTROLLER,
        [
            module(A, B),
            shell(JOB.format("a", 600)),
            module(B),
            module(B, drain="wait", drain_timeout=1),
            shell(closed),
            shell(JOB.format("a", 1)),
            module(A, B),
            shell(JOB.format("a", 1)),
            module(B, drain="cancel", _check_mode=True),
            module(B, drain="cancel"),
            shell("squeue -h -A batch-a; sacctmgr -nP show assoc where account=batch-a"),
        ],
    )
    worked(begun, job, is_closed, opened, more, foretold, cancelled, ended)
    named = f"job {job['stdout']} ("
    assert refused["msg"].startswith(f"nothing was changed: what the list no longer has is in use: {named}")
    assert gave_up["msg"].startswith(f"nothing was deleted: after 1 s there are still {named}")
    assert "AssocGrpSubmitJobsLimit" in no_more["stderr"] or "Job violates accounting/QOS policy" in no_more["stderr"]
    assert says(opened) == ["account batch-a: set GrpSubmitJobs=-1"]
    assert foretold["plan"] == cancelled["plan"]
    assert says(cancelled) == [
        "account batch-a: let no new jobs in (GrpSubmitJobs=0)",
        "cancel the jobs in batch-a",
        "delete user batch-a",
        "delete account batch-a",
    ]
    assert len(cancelled["jobs"]) >= 1
    assert ended["stdout"] == ""


def test_waiting_for_jobs_of_accounts_that_go(module: Any) -> None:
    begun, job, waited, state = play(
        CONTROLLER,
        [
            module(A, B),
            shell(JOB.format("b", 2)),
            module(A, drain="wait", drain_timeout=60),
            # Accounting hears of a start and of an end seconds later, where the controller is busy.
            shell(
                "for i in $(seq 200); do sacct -XnP -S now-1hour -o jobid,state -j {{ result_1.stdout }} "
                "| tee /run/batch/sacct | grep -q COMPLETED && break; sleep 0.5; done; cat /run/batch/sacct"
            ),
        ],
    )
    worked(begun, job, waited)
    assert says(waited)[1] == "wait for the jobs in batch-b"
    assert f"{job['stdout']}|COMPLETED" in state["stdout"].splitlines()


def as_user(user: str) -> dict[str, Any]:
    return {"_become": True, "_become_user": user, "_vars": {"ansible_remote_tmp": f"/run/batch/{user}"}}


def test_a_coordinator_and_an_operator(module: Any, controller: Host, cluster: str) -> None:
    """Each does what he may; what not is said before anything is tried, with the command for it."""
    site = f"""
        sacctmgr -iQ add account batch-site parent=root cluster={cluster}
        sacctmgr -iQ modify account where name=batch-site cluster={cluster} set QOS=batch DefaultQOS=batch
        sacctmgr -iQ add account batch-home parent=root cluster={cluster}
        sacctmgr -iQ add user batch-co,batch-op,batch-no account=batch-home cluster={cluster}
        sacctmgr -iQ add coordinator account=batch-site names=batch-co
        sacctmgr -iQ modify user where name=batch-op set AdminLevel=Operator
    """
    wish = [account("d", "a", GrpJobs=2), account("e", "c", GrpJobs=2, MaxWall=60)]
    smaller = [account("d", "a", GrpJobs=3)]
    options: dict[str, Any] = {"parent": "batch-site"}
    tasks = [module(), shell(site), module(*wish, **options, **as_user("batch-no"))]
    for user in ("batch-co", "batch-op"):
        tasks += [
            module(*wish, **options, **as_user(user) | {"qos": "batch-three"}),
            module(*wish, **options, **as_user(user), _check_mode=True),
            module(*wish, **options, **as_user(user)),
            module(*smaller, **options, **as_user(user)),
            module(*smaller, **options, **as_user(user)),
            module(**options, **as_user(user)),
        ]
    _, made, nobody, *rest = play(CONTROLLER, tasks)
    worked(made)
    assert nobody.get("faults") == [
        "batch-no is neither administrator nor operator of Slurm, nor coordinator of batch-site: "
        "sacctmgr add coordinator account=batch-site names=batch-no"
    ], nobody
    for user, results in (("batch-co", rest[:6]), ("batch-op", rest[6:12])):
        denied: Result = results[0]
        assert denied["msg"].startswith("nothing was changed: ")
        assert denied["faults"][0].endswith("sacctmgr add qos name=batch-three Flags=DenyOnLimit"), user
        foretold, done, less, again, gone = results[1:]
        worked(foretold, done, less, again, gone)
        assert foretold["plan"] == done["plan"]
        assert says(done) == [
            "add account batch-d under batch-site (GrpJobs=2)",
            "add account batch-e under batch-site (GrpJobs=2 MaxWall=60)",
            "add user batch-a to batch-d",
            "add user batch-c to batch-e",
        ]
        assert says(less)[0] == "account batch-d: set GrpJobs=3"
        assert not again["changed"]
        assert gone["changed"]
    shown = controller.check_output(f"sacctmgr -nP show assoc format=account where parent=batch-site cluster={cluster}")
    assert shown == ""
