"""The image's recipe: the machines get packages from where the controller gets them, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible.module_utils import machine_image as mi

LISTING = """\
http://deb.debian.org/debian/\tbookworm\tmain\tDebian\t/etc/apt/sources.list.d/debian.sources:1
http://deb.debian.org/debian/\tbookworm\tcontrib\tDebian\t/etc/apt/sources.list.d/debian.sources:1
http://deb.debian.org/debian/\tbookworm-updates\tmain\t$(ORIGIN)\t/etc/apt/sources.list.d/debian.sources:1
http://deb.debian.org/debian-security/\tbookworm-security\tmain\tDebian\t/etc/apt/sources.list.d/debian.sources:2
https://packages.cloud.google.com/apt/\tcloud-sdk-bookworm\tmain\tcloud-sdk-bookworm\t/etc/apt/sources.list.d/g.list:1
https://deb.nodesource.com/node_20.x/\tnodistro\tmain\t. nodistro\t/etc/apt/sources.list.d/n.sources:1
https://download.docker.com/linux/debian/\tbookworm\tstable\tDocker\t/etc/apt/sources.list.d/docker.list:1
https://apt.example.org/\tbookworm\tmain\tExample\t/etc/apt/sources.list.d/example.list:1
"""
DEB822 = """\
# a comment
Types: deb
URIs: http://mirror.example.org/debian
Suites: bookworm bookworm-updates
Signed-By: /usr/share/keyrings/mirror.gpg

Types: deb
URIs: http://mirror.example.org/debian-security/
Suites: bookworm-security
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
"""


def test_only_debians_archives() -> None:
    targets = mi.debian_targets(LISTING, "bookworm")
    assert mi.source_lines(targets, {}) == [
        "deb http://deb.debian.org/debian/ bookworm main contrib",
        "deb http://deb.debian.org/debian/ bookworm-updates main",
        "deb http://deb.debian.org/debian-security/ bookworm-security main",
    ]


def test_another_release_lies_beside_the_controllers_own() -> None:
    targets = mi.other_release(mi.debian_targets(LISTING, "bookworm"), "bookworm", "trixie")
    assert mi.source_lines(targets, {}) == [
        "deb http://deb.debian.org/debian/ trixie main contrib",
        "deb http://deb.debian.org/debian/ trixie-updates main",
        "deb http://deb.debian.org/debian-security/ trixie-security main",
    ]
    # Until bullseye the archive of security updates had another form.
    old = mi.debian_targets("http://d/\tbuster/updates\tmain\tDebian\tx:1", "buster")
    assert mi.source_lines(mi.other_release(old, "buster", "trixie"), {}) == ["deb http://d/ trixie-security main"]


def test_systemd_is_that_of_a_release_that_starts_on_this_hosts_cgroups() -> None:
    targets = mi.other_release(mi.debian_targets(LISTING, "bookworm"), "bookworm", "forky")
    added, files = mi.older_systemd(targets, "forky", unified=False)
    assert mi.source_lines(added, {}) == ["deb http://deb.debian.org/debian/ trixie main contrib"]
    [(path, text)] = files.items()
    assert path.startswith("/etc/apt/preferences.d/")
    # Above the release's own (500), and all else of the other below it.
    assert text.split("\n\n") == [
        "Package: src:systemd\nPin: release n=trixie\nPin-Priority: 990",
        "Package: *\nPin: release n=trixie\nPin-Priority: 50\n",
    ]
    assert mi.older_systemd(targets, "forky", unified=True) == ([], {})
    assert mi.older_systemd(targets, "trixie", unified=False) == ([], {})


def test_a_mirrors_own_key_goes_along_and_debians_need_not() -> None:
    targets = [("http://m/", "bookworm", "main", "x"), ("http://d/", "bookworm", "main", "x")]
    keyrings = {"http://m/": "/etc/apt/keyrings/m.asc", "http://d/": "/usr/share/keyrings/debian-archive-keyring.gpg"}
    assert mi.source_lines(targets, keyrings) == [
        "deb [signed-by=/etc/apt/keyrings/m.asc] http://m/ bookworm main",
        "deb http://d/ bookworm main",
    ]


@pytest.mark.parametrize(
    ("text", "uri", "keyring"),
    [
        (DEB822, "http://mirror.example.org/debian/", "/usr/share/keyrings/mirror.gpg"),
        (DEB822, "http://mirror.example.org/debian-security/", None),
        (DEB822, "http://other/", None),
        ("deb [arch=amd64 signed-by=/k.gpg] http://m/debian bookworm main", "http://m/debian/", "/k.gpg"),
        ("deb http://m/debian bookworm main", "http://m/debian/", None),
    ],
)
def test_keyring_of_an_archive(text: str, uri: str, keyring: str | None) -> None:
    assert mi.signed_by(text, uri) == keyring


def test_only_settings_that_say_how_archives_are_reached() -> None:
    dump = """\
APT::Install-Recommends "1";
Acquire::http::Proxy "http://proxy:3128";
Acquire::https::Verify-Peer "true";
Acquire::Check-Valid-Until "false";
Acquire::IndexTargets::deb::Packages::Optional "0";
Acquire::CompressionTypes::xz "xz";
Acquire::http::User-Agent "";
Dir::Cache::pkgcache "";
"""
    assert mi.apt_settings(dump) == [
        'Acquire::http::Proxy "http://proxy:3128";',
        'Acquire::https::Verify-Peer "true";',
        'Acquire::Check-Valid-Until "false";',
    ]


def pem(text: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----"


def test_certificates_beyond_debians_own() -> None:
    bundle = "\n".join(pem(name) for name in ("mozilla", "site", "site", "other"))
    assert mi.extra_certificates(bundle, [pem("mozilla")]) == [pem("site"), pem("other")]


def test_proxies_of_the_environment() -> None:
    files, settings = mi.proxy_files({"HTTP_PROXY": "http://p:1", "no_proxy": "localhost"})
    assert settings == ['Acquire::http::Proxy "http://p:1";']
    assert 'http_proxy="http://p:1"' in files["/etc/environment"]
    assert mi.proxy_files({}) == ({}, [])


def test_the_key_changes_with_each_part() -> None:
    recipe = mi.Recipe("bookworm", ("systemd",), ("deb x",), (), {"/a": "b"}, "script")
    others = [
        replace(recipe, suite="trixie"),
        replace(recipe, packages=("systemd", "curl")),
        replace(recipe, sources=("deb y",)),
        replace(recipe, apt_settings=("x",)),
        replace(recipe, files={"/a": "c"}),
        replace(recipe, customize="other"),
        replace(recipe, options=("--variant=apt",)),
    ]
    keys = {recipe.key, *(other.key for other in others)}
    assert len(keys) == 8
    assert mi.Recipe("bookworm", ("systemd",), ("deb x",), (), {"/a": "b"}, "script").key == recipe.key
