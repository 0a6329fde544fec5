"""Virtual nodes, accounts of platforms, and missing packages."""

from __future__ import annotations

import packages
import slurm

SIZES = {
    "desktop": {"cores": 4, "memory_gib": 16, "disc_gb": 250},
    "big": {"cores": 8, "memory_gib": 32, "disc_gb": 512},
}


def test_nodes_are_dealt_out_in_turn() -> None:
    nodes = slurm.virtual_nodes({"desktop": 2, "big": 1}, SIZES, ["one", "two"])
    assert [(node["name"], node["machine"], node["port"]) for node in nodes] == [
        ("desktop-1", "one", 17001),
        ("desktop-2", "two", 17002),
        ("big-1", "one", 17003),
    ]
    assert nodes[2]["memory_mib"] == 32768
    assert [unit["name"] for unit in slurm.node_units(nodes, ["/f"])] == [
        "slurmd@desktop-1.service",
        "slurmd@desktop-2.service",
        "slurmd@big-1.service",
    ]


def test_a_platform_is_an_account_with_one_user() -> None:
    platform = {
        "name": "vp",
        "uid": 20001,
        "quota": {"cores": 8, "memory_gib": 32, "disc_gb": 512},
        "limits": {"cores": 4, "memory_gib": 16, "walltime_minutes": 120, "jobs": 4},
    }
    assert slurm.account_list([platform], 5) == [
        {
            "name": "vp",
            "users": ["vp"],
            "limits": {
                "GrpTRES": {"cpu": 8, "mem": 32768, "gres/disk": 512},
                "GrpJobs": 4,
                "GrpSubmitJobs": 20,
                "MaxTRESPerJob": {"cpu": 4, "mem": 16384},
                "MaxWall": 120,
            },
        }
    ]
    assert slurm.account_users([platform], "/jobs") == [{"name": "vp", "uid": 20001, "home": "/jobs/vp"}]


def test_missing_packages() -> None:
    dpkg = "installed munge\nconfig-files slurmd\nnot-installed mariadb-server\n"
    assert packages.missing(["munge", "slurmd", "mariadb-server", "new", "new"], dpkg) == [
        "slurmd",
        "mariadb-server",
        "new",
    ]


def test_accounts_and_users_are_those_of_one_cluster() -> None:
    amounts = {"quota": "desktop", "limits": {"cores": 1, "memory_gib": 2, "walltime": "PT1H", "jobs": 3}}
    virtual = [{"name": name, "physical_platform": on, "uid": 1, **amounts} for name, on in (("a", "x"), ("b", "y"))]
    physical = {"x": {"kind": "slurm", "disc_tres": ""}, "y": {"kind": "slurm"}}
    filters = slurm.FilterModule().filters()
    [account] = filters["slurm_account_list"](virtual, physical, SIZES, "x", 5)
    assert (account["name"], account["limits"]["MaxWall"]) == ("a", 60)
    assert account["limits"]["GrpTRES"] == {"cpu": 4, "mem": 16384}
    [user] = filters["slurm_account_users"](virtual, physical, SIZES, "y", "/jobs")
    assert user == {"name": "b", "uid": 1, "home": "/jobs/b"}
