"""What caesar-rest submits, and all that is refused; and its tokens."""

import base64
import hashlib
import hmac
import json
import shlex
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planner_app.voter.slurm_script import Refused, read_submission, split_words
from planner_app.voter.slurm_token import BadToken, check_token, make_token, read_key
from tests.voter_stubs import JOBS, NAME, submission

DATA = PurePosixPath("/mnt/storage/data/caesar-rest")
SCRIPT = submission()["script"]


def read(body: Any) -> Any:
    return read_submission(body, DATA, PurePosixPath(JOBS))


def test_what_caesar_rest_submits_for_aegean() -> None:
    found = read(submission())
    assert (found.name, found.user, found.cores) == (NAME, "anonymous", 1)
    assert found.image == "/opt/containers/aegean/aegean-job_latest.sif"
    assert found.input_path == f"{DATA}/anonymous/0a1b.fits"
    assert found.directory == f"{JOBS}/anonymous/job_{NAME}"
    assert found.options == (
        "--run",
        "--save-summaryplot",
        "--save-regions",
        "--save-catalog-to-json",
        "--seedthr=5.0",
        "--inputfile=/data/0a1b.fits",
    )


def test_cores_are_those_of_the_job_or_of_the_application_s_own_option() -> None:
    assert read(submission(cpus_per_task=4)).cores == 4
    more = submission(options="--run --ncores=6")
    assert read(more).cores == 6


def test_where_the_application_has_the_paths_of_the_cluster() -> None:
    """caesar-rest binds a path to itself where its own directories are those of the cluster."""
    body = submission(app_data=str(DATA), app_jobs=JOBS)
    assert read(body).options[-1] == "--inputfile=/data/0a1b.fits"


CHANGES = [
    ("#!/bin/bash", "#!/bin/sh", "must begin with #!/bin/bash"),
    ("sleep 10", "sleep 10; id", "must have one command"),
    ("sleep 10", "touch x", "must have one command, and it has 2"),
    ("singularity run", "mpirun --np 2 singularity run", "runs several processes with mpirun"),
    ("singularity run", "singularity exec", "command must be singularity run"),
    ("singularity run", "singularity run --fakeroot", "singularity's option --fakeroot is not known"),
    ("--no-home ", "", "--no-home is missing"),
    ("--no-home", "--no-home --no-home", "--no-home comes twice"),
    ("aegean-job_latest.sif", "aegean-job_latest.sif --run", "one image must come last, and 2 words do"),
    ("CHANGE_RUNUSER=0", "LD_PRELOAD=/x.so", "the variable LD_PRELOAD is not known"),
    ("CHANGE_RUNUSER=0", "CHANGE_RUNUSER=$(id)", "the script has a '$'"),
    ("--seedthr=5.0", "--seedthr=`id`", "the script has a '`'"),
    ("--seedthr=5.0", "--seedthr=5.0 && id", "the script has a '&'"),
    ("--seedthr=5.0", "--seedthr=5.0' 'x", "one image must come last"),
    ("--seedthr=5.0", "5.0", "JOB_OPTIONS has '5.0', which is no option"),
    ("--seedthr=5.0", "--seedthr='", "the script has a quote without an end"),
    ("--inputfile=/opt/caesar-rest/data/anonymous/0a1b.fits", "--x", "JOB_OPTIONS must name the input"),
    ("-B /mnt/storage/data", "-B /etc:/x -B /mnt/storage/data", "exactly two things are bound"),
    ("-B /mnt/storage/data", "-B /etc", "one thing must be bound from below /mnt/storage/data/caesar-rest, and 0 are"),
    ("caesar-rest/anonymous/0a1b.fits:", "caesar-rest/../anonymous/0a1b.fits:", "must be /mnt/storage/data/"),
    ("caesar-rest/anonymous/0a1b.fits:", "caesar-rest/somebody/0a1b.fits:", "the input is somebody's"),
    ("caesar-rest/anonymous/0a1b.fits:", "caesar-rest/0a1b.fits:", "must be /mnt/storage/data/caesar-rest/USER/NAME"),
    (f"job_{NAME}:", "job_other:", "the outputs must go to"),
    ("JOB_OUTDIR=/opt", "JOB_OUTDIR=/root", "JOB_OUTDIR must be where"),
    ("--env JOB_DIR=", "--env JOB_DIR", "must have two parts"),
]


@pytest.mark.parametrize(("old", "new", "reason"), CHANGES, ids=[reason[:30] + new[:12] for _, new, reason in CHANGES])
def test_another_shape_is_refused(old: str, new: str, reason: str) -> None:
    body = submission()
    assert old in body["script"]
    body["script"] = body["script"].replace(old, new, 1)
    with pytest.raises(Refused) as refused:
        read(body)
    assert reason in str(refused.value)


def test_several_processes_are_refused_with_what_to_ask_for_instead() -> None:
    """Word for word what caesar-rest 6c34a9c writes for app caesar with nproc 2 and nthreads 2."""
    name, app = "0123456789abcdef0123456789abcdef", "/opt/caesar-rest"
    script = (
        "#!/bin/bash \n sleep 10 \n mpirun --report-bindings --np 2 --map-by ppr:2:node:pe=2 --bind-to core "
        f"singularity run --containall --no-home --scratch /home/cirasa/{name} "
        f"-B {JOBS}/anonymous/job_{name}:{app}/jobs/anonymous/job_{name} "
        f"-B {DATA}/anonymous/0a1b.fits:{app}/data/anonymous/0a1b.fits -B /etc/libibverbs.d --env CHANGE_RUNUSER=0 "
        f"--env JOB_DIR=/home/cirasa/{name} --env JOB_OPTIONS='--run --nproc=2 --nthreads=2 "
        f"--inputfile={app}/data/anonymous/0a1b.fits' --env JOB_OUTDIR={app}/jobs/anonymous/job_{name} "
        "/opt/containers/caesar/caesar-job_latest.sif"
    )
    with pytest.raises(Refused, match="several processes with mpirun, and jobs here are one: ask for nproc 1"):
        read({"script": script, "job": {"name": name, "cpus_per_task": 2, "tasks": 2}})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tasks": 2}, "job.tasks is 2"),
        ({"cpus_per_task": 0}, "job.cpus_per_task must be a whole number from 1 on"),
        ({"cpus_per_task": True}, "job.cpus_per_task must be"),
        ({"cpus_per_task": 2000}, "2000 cores are asked"),
        ({"name": "../x"}, "job.name must be"),
        ({"name": 7}, "job.name must be"),
        ({"account": "root"}, "job.account is not known here"),
    ],
)
def test_another_job_is_refused(changes: dict[str, Any], reason: str) -> None:
    body = submission()
    body["job"] |= changes
    with pytest.raises(Refused) as refused:
        read(body)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    "body", [None, [], {}, {"script": SCRIPT}, {"script": 1, "job": {}}, {"script": "", "job": {}}]
)
def test_no_submission_at_all(body: Any) -> None:
    with pytest.raises(Refused):
        read(body)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, len(SCRIPT)),
    st.integers(0, 20),
    st.text(alphabet=st.sampled_from("ab /.:='-B\n\"\\$;&|<>(){}*?[]#!~`\t\x00é"), max_size=12),
)
def test_no_script_does_anything_but_what_the_known_one_does(at: int, cut: int, put: str) -> None:
    """Whatever is changed in the script: it is refused, or means a job within the two directories."""
    body = submission()
    body["script"] = SCRIPT[:at] + put + SCRIPT[at + cut :]
    try:
        found = read(body)
    except Refused:
        return
    assert found.directory == f"{JOBS}/{found.user}/job_{NAME}"
    assert PurePosixPath(found.input_path).parent == DATA / found.user
    assert ".." not in PurePosixPath(found.input_path).parts
    assert all(word.startswith("--") for word in found.options)
    assert not set("".join(found.options)) & set('$;&|<>(){}*?[]#!~`\\"\n')


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab'  =-/:"), max_size=30))
def test_words_are_those_of_a_shell(line: str) -> None:
    try:
        expected = shlex.split(line)
    except ValueError:
        with pytest.raises(Refused):
            split_words(line)
    else:
        assert split_words(line) == expected


# --- tokens ---------------------------------------------------------------------------------------------

KEY = bytes(range(40))
NOW = 1_800_000_000.0


def test_a_good_token() -> None:
    check_token(make_token(KEY, "caesar", NOW), KEY, "caesar", NOW + 10)


def altered(**claims: Any) -> str:
    header, payload, _ = make_token(KEY, "caesar", NOW).split(".")
    document = json.loads(base64.urlsafe_b64decode(payload + "=="))
    document = {name: value for name, value in (document | claims).items() if value is not None}
    return signed(header, base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode())


def signed(header: str, payload: str) -> str:
    signature = hmac.digest(KEY, f"{header}.{payload}".encode(), hashlib.sha256)
    return f"{header}.{payload}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("", "holds no token"),
        ("a.b", "holds no token"),
        ("a.b.c", "can not be read"),
        ("a.b." + encoded("x"), "not made with the voter's key"),
        ("x" * 5000 + "..", "holds no token"),
        (make_token(b"another key of at least 32 bytes", "caesar", NOW), "not made with the voter's key"),
        (make_token(KEY, "caesar", NOW - 9000), "has expired"),
        (make_token(KEY, "caesar", NOW + 9000), "of the future"),
        (make_token(KEY, "root", NOW), "for another user"),
        (altered(exp=None), "does not say until when"),
        (altered(exp="never"), "does not say until when"),
        (altered(exp=True), "does not say until when"),
        (signed(encoded('{"alg": "none"}'), encoded("{}")), "algorithm is not HS256"),
        (signed(encoded("[]"), encoded("{}")), "can not be read"),
        (signed(encoded("{"), encoded("{}")), "can not be read"),
    ],
)
def test_a_bad_token(token: str, reason: str) -> None:
    with pytest.raises(BadToken) as bad:
        check_token(token, KEY, "caesar", NOW)
    assert reason in str(bad.value)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_no_text_is_a_token(text: str) -> None:
    with pytest.raises(BadToken):
        check_token(text, KEY, "caesar", NOW)


def test_keys() -> None:
    assert read_key(KEY + b"\n") == KEY
    assert read_key(KEY) == KEY
    with pytest.raises(ValueError, match="at least 32 bytes"):
        read_key(b"short\n")
