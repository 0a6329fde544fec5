"""The jobs' image itself, as both platforms have it: what caesar-rest may rely on (docs: roles/job_images)."""

from __future__ import annotations

import shlex

import pytest
import yaml
from handles import STATE
from testinfra.host import Host

[IMAGE] = yaml.safe_load((STATE / "images.yml").read_text())["images"]
# Where caesar-rest and the planners mount directories: charliecloud binds only to what is there.
MOUNT_POINTS = ("/data", "/output", "/mnt/storage", "/tmp", "/opt/caesar-rest/jobs", "/opt/caesar-rest/data")


def container(kube: Host, name: str, environment: dict[str, str], meanwhile: str = "true") -> tuple[int, str]:
    """Run the image as the first process of a container: read-only, without a network of any use."""
    variables = " ".join(f"--env {shlex.quote(f'{key}={value}')}" for key, value in environment.items())
    # No cgroup of its own: on a host with cgroup v1 ctr would want one that systemd has not made.
    done = kube.run(
        f"directory=$(mktemp -d); head -c 100000 /dev/zero >$directory/zeros.fits; ({meanwhile}) & "
        f"ctr -n k8s.io run --rm --read-only --cgroup '' {variables} --env JOB_OUTDIR=/tmp "
        "--mount type=bind,src=$directory,dst=/data,options=rbind:ro "
        "--mount type=bind,src=$directory,dst=/tmp,options=rbind:rw "
        f"{IMAGE['kubernetes']} {name}; code=$?; rm -r $directory; exit $code"
    )
    return done.rc, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JOB_OPTIONS": "--nonsense", "INPUTFILE": "/data/a.fits"}, "unknown option '--nonsense'"),
        ({"JOB_OPTIONS": "", "INPUTFILE": ""}, "are both empty"),
        ({"JOB_OPTIONS": "--inputfile=/data/missing.fits"}, "does not exist in this container"),
        ({"INPUTFILE": "/data/zeros.fits"}, "cannot be read as FITS"),
    ],
)
def test_what_is_wrong_ends_with_1_and_a_line_that_says_it(
    kube: Host, environment: dict[str, str], message: str
) -> None:
    code, said = container(kube, "test-wrong", environment)
    assert code == 1, said
    assert message in said
    assert "Traceback" not in said


def test_sigterm_ends_it_though_it_is_the_first_process(kube: Host) -> None:
    kill = "sleep 1; ctr -n k8s.io task kill -s SIGTERM test-sigterm"
    code, said = container(kube, "test-sigterm", {"INPUTFILE": "/data/zeros.fits"}, kill)
    assert code == 143, said


def test_slurm_has_the_same_image_with_all_mount_points(slurm: Host) -> None:
    tests = " && ".join(f"test -d {path}" for path in MOUNT_POINTS)
    slurm.check_output(f"ch-run {IMAGE['slurm']} -- sh -c {shlex.quote(tests)}")
    assert slurm.run(f"ch-run {IMAGE['slurm']} -- touch /data/x").rc != 0, "the root can be written to"


def test_an_image_is_imported_once(kube: Host) -> None:
    names = kube.check_output("ctr -n k8s.io images ls -q").splitlines()
    assert IMAGE["kubernetes"] in names
