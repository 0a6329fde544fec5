"""The machines are whole, reached by keys known beforehand, and share one file system."""

from __future__ import annotations

import stat
import subprocess

import pytest
from handles import STATE, machine
from testinfra.host import Host

MACHINES = ["slurm", "kube", "planner"]


@pytest.mark.parametrize("name", MACHINES)
def test_systemd_runs_without_a_failed_unit(name: str) -> None:
    failed = machine(name).check_output("systemctl list-units --failed --plain --no-legend")
    assert failed == ""
    assert machine(name).run("systemctl is-system-running").stdout.strip() == "running"


@pytest.mark.parametrize("name", MACHINES)
def test_machines_know_each_other_by_name(name: str, address: dict[str, str]) -> None:
    for other in MACHINES:
        found = machine(name).check_output(f"getent ahostsv4 {other}").split()[0]
        assert found in (address[other], "127.0.1.1", "127.0.0.1") if other == name else found == address[other]


def test_what_one_machine_writes_the_others_read(slurm: Host, kube: Host, planner: Host) -> None:
    planner.check_output("echo 'the same bytes' > /mnt/storage/.written-by-planner")
    try:
        for other in (slurm, kube):
            assert other.check_output("cat /mnt/storage/.written-by-planner") == "the same bytes"
    finally:
        planner.check_output("rm /mnt/storage/.written-by-planner")


def test_a_machine_with_another_key_is_refused(tmp_path) -> None:
    """Host keys are known before the first connection: one that differs is an impostor's."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    impostor = (tmp_path / "key.pub").read_text().split()[:2]
    known = (STATE / "known_hosts").read_text().splitlines()
    forged = tmp_path / "known_hosts"
    forged.write_text("\n".join(f"{line.split()[0]} {' '.join(impostor)}" for line in known if line) + "\n")
    command = ["ssh", "-F", STATE / "ssh_config", "-o", f"UserKnownHostsFile={forged}", "-o", "ControlPath=none"]
    run = subprocess.run([*command, "slurm", "true"], capture_output=True, text=True, check=False, timeout=30)
    assert run.returncode == 255
    assert "Host key verification failed" in run.stderr


def test_the_operators_secrets_are_his_alone() -> None:
    open_to_others = [
        str(path)
        for path in [STATE, *STATE.rglob("*")]
        if not path.is_symlink() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) and path.suffix != ".pub"
    ]
    # The directory's own 0700 shuts off all in it; secrets and handles that carry a token are closed themselves too.
    assert stat.S_IMODE(STATE.stat().st_mode) == 0o700
    assert not [path for path in open_to_others if "/secrets/" in path or path.endswith(("kubeconfig", "voter.yml"))]


def test_no_secret_is_an_argument_of_a_process() -> None:
    secrets = [path.read_text().strip() for path in (STATE / "secrets").iterdir() if path.is_file() and _text(path)]
    assert secrets
    for name in MACHINES:
        arguments = machine(name).check_output("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
        assert not [secret[:4] + "..." for secret in secrets if len(secret) >= 16 and secret in arguments]


def _text(path) -> bool:
    try:
        path.read_text()
    except UnicodeDecodeError:
        return False
    return True
