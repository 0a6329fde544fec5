"""What the image of the local machines is made of, and the key that names it.

The machines get their packages from where the controller gets its own: the same archives, proxies,
credentials, keyrings and certificate authorities. `read_controller` reads them, the rest is pure.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

#: Settings of apt that say how to reach an archive; the others are apt's own defaults or the controller's taste.
_APT_SETTING = re.compile(
    r"^(Acquire::(?:http|https|ftp)::\S+|Acquire::(?:Retries|Check-Valid-Until|Check-Date|Max-FutureTime"
    r"|ForceIPv4|ForceIPv6|Languages(?:::\S*)?|Allow(?:Insecure|Weak|DowngradeToInsecure)\S*))"
    r' "(?P<value>.+)";$'
)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_COMPONENTS = frozenset({"main", "contrib", "non-free", "non-free-firmware"})
#: The key that every Debian machine has without being told.
_DEBIAN_KEYRING = "/usr/share/keyrings/debian-archive-keyring"
_TARGET_FORMAT = "$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)\t$(ORIGIN)\t$(SOURCESENTRY)"
#: Options of mmdebstrap that determine what is in the image.
OPTIONS = (
    "--variant=minbase",
    # Stays in the image: what a machine loses by a crash is made again, and installs are quicker.
    "--dpkgopt=force-unsafe-io",
    # As Debian's own images for containers do it: a fifth less, and quicker installs ever after.
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=path-exclude=/usr/share/info/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    # Machines start with the package lists of the day they were made: no update at once.
    "--skip=cleanup/apt/lists",
)
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")
#: Releases whose systemd (258 and later) refuses to run where cgroups are version 1, and the last release whose does.
_ONLY_CGROUP2 = frozenset({"forky", "sid"})
_LAST_CGROUP1 = "trixie"
_PREFERENCES = "/etc/apt/preferences.d/testbed-systemd"


@dataclass(frozen=True)
class Recipe:
    """All that determines an image; `key` is its hash."""

    suite: str
    packages: tuple[str, ...]
    sources: tuple[str, ...]
    apt_settings: tuple[str, ...]
    #: Path in the machine to text: keyrings, apt's credentials, certificate authorities, proxies.
    files: Mapping[str, str] = field(default_factory=dict)
    #: What is done to the image when its packages are in.
    customize: str = ""

    options: tuple[str, ...] = OPTIONS

    @property
    def key(self) -> str:
        """Twelve hex digits that change when anything of the recipe does."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def debian_targets(listing: str, codename: str) -> list[tuple[str, str, str, str]]:
    """Choose Debian's own archives among all that apt knows.

    Args:
        listing: what `apt-get indextargets` prints, one target a line: URI, release, component, origin
            and source file, parted by tabs.
        codename: the controller's release, `bookworm`.

    Returns:
        URI, release, component and source file of each, in apt's order. Third parties' archives (another
        origin, another release name) are left out: a machine needs none of their packages, and they are
        often not to be had everywhere. A target without an origin is one that was never downloaded.
    """
    releases = {codename, f"{codename}-updates", f"{codename}-security", f"{codename}/updates"}
    chosen = []
    for line in listing.splitlines():
        uri, release, component, origin, entry = (line.split("\t") + [""] * 5)[:5]
        if release in releases and component in _COMPONENTS and origin in ("Debian", "", "$(ORIGIN)"):
            target = (uri, release, component, entry.rpartition(":")[0])
            if target not in chosen:
                chosen.append(target)
    return chosen


def other_release(
    targets: Iterable[tuple[str, str, str, str]], own: str, suite: str
) -> list[tuple[str, str, str, str]]:
    """Turn the controller's archives into those of another release, which lies in the same places.

    Args:
        targets: of `debian_targets`.
        own: the controller's release.
        suite: the other one.

    >>> other_release([("http://d/", "bookworm-security", "main", "x")], "bookworm", "trixie")
    [('http://d/', 'trixie-security', 'main', 'x')]
    """
    return [
        (uri, suite + release.removeprefix(own).replace("/updates", "-security"), component, entry)
        for uri, release, component, entry in targets
    ]


def older_systemd(
    targets: Iterable[tuple[str, str, str, str]], suite: str, unified: bool
) -> tuple[list[tuple[str, str, str, str]], dict[str, str]]:
    """Say where systemd comes from, where that of a release does not start on this host's cgroups.

    Args:
        targets: the archives of the release.
        suite: the release.
        unified: whether the host has cgroups of version 2 alone.

    Returns:
        The archives to add, and apt's preferences, path to text: systemd of the last release that runs there, and
        nothing else of it. Both are empty where there is no need.
    """
    if unified or suite not in _ONLY_CGROUP2:
        return [], {}
    added = [(uri, _LAST_CGROUP1, component, entry) for uri, release, component, entry in targets if release == suite]
    pin = "Package: {}\nPin: release n=" + _LAST_CGROUP1 + "\nPin-Priority: {}\n"
    return added, {_PREFERENCES: "\n".join((pin.format("src:systemd", 990), pin.format("*", 50)))}


def signed_by(text: str, uri: str) -> str | None:
    """Find the keyring that a sources file names for an archive; None where it names none.

    Args:
        text: the content of a `.list` or a `.sources` file.
        uri: the archive.
    """
    site = uri.rstrip("/")
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+\[(?P<options>[^]]*)\]\s+(?P<uri>\S+)", line)
        if match and match["uri"].rstrip("/") == site:
            option = re.search(r"signed-by=(\S+)", match["options"], re.IGNORECASE)
            return option[1] if option else None
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
        uris = [word.rstrip("/") for word in fields.get("URIs", "").split()]
        keyring = fields.get("Signed-By", "").strip()
        # An armoured key within the stanza starts with nothing on the first line.
        if site in uris and keyring.startswith("/"):
            return str(keyring)
    return None


def source_lines(targets: Iterable[tuple[str, str, str, str]], keyrings: Mapping[str, str | None]) -> list[str]:
    """Write apt's one-line sources, one for each archive and release.

    Args:
        targets: of `debian_targets`.
        keyrings: archive to its keyring.
    """
    components: dict[tuple[str, str], list[str]] = {}
    for uri, release, component, _ in targets:
        components.setdefault((uri, release), []).append(component)
    lines = []
    for (uri, release), names in components.items():
        keyring = keyrings.get(uri)
        option = f"[signed-by={keyring}] " if keyring and not keyring.startswith(_DEBIAN_KEYRING) else ""
        lines.append(f"deb {option}{uri} {release} {' '.join(names)}")
    return lines


def apt_settings(dump: str) -> list[str]:
    """Choose those lines of `apt-config dump` that say how archives are reached."""
    return [line for line in dump.splitlines() if _APT_SETTING.match(line.strip())]


def extra_certificates(bundle: str, known: Iterable[str]) -> list[str]:
    """List the certificates (PEM) that the controller trusts beyond those in `known`, each once, in order."""
    seen = {pem for text in known for pem in _CERTIFICATE.findall(text)}
    extra = []
    for pem in _CERTIFICATE.findall(bundle):
        if pem not in seen:
            seen.add(pem)
            extra.append(pem)
    return extra


def proxy_files(environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Turn the controller's proxy variables into files and apt settings of a machine."""
    values = {name: environment.get(name) or environment.get(name.upper()) or "" for name in _PROXIES}
    lines = [f'{spelling}="{value}"' for name, value in values.items() if value for spelling in (name, name.upper())]
    settings = [
        f'Acquire::{scheme}::Proxy "{values[f"{scheme}_proxy"]}";'
        for scheme in ("http", "https")
        if values[f"{scheme}_proxy"]
    ]
    return ({"/etc/environment": "\n".join(lines) + "\n"} if lines else {}), settings


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def _text(path: Path) -> str:
    # Keyrings may be binary; surrogates carry their bytes through unharmed.
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def _files(*places: str) -> dict[str, str]:
    """Read files, and the files of directories, that exist."""
    found: dict[str, str] = {}
    for place in map(Path, places):
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file():
                found[str(path)] = _text(path)
    return found


def _certificates() -> dict[str, str]:
    local = {
        f"{path}": text for path, text in _files("/usr/local/share/ca-certificates").items() if path.endswith(".crt")
    }
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.is_file():
        known = [*local.values(), *_files("/usr/share/ca-certificates").values()]
        for number, pem in enumerate(extra_certificates(bundle.read_text(), known), 1):
            local[f"/usr/local/share/ca-certificates/controller-{number}.crt"] = pem + "\n"
    return local


def codename() -> str:
    """Give the release name of the controller's system, or nothing where it is no Debian."""
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', Path("/etc/os-release").read_text(), re.MULTILINE))
    return str(fields.get("VERSION_CODENAME", "")) if fields.get("ID") == "debian" else ""


def read_controller(
    packages: Iterable[str], suite: str = "", sources: Iterable[str] = (), customize: Path | None = None
) -> Recipe:
    """Read the recipe off the controller.

    Args:
        packages: what the image holds beyond the essential packages.
        suite: the release; the controller's own where it is empty.
        sources: apt's one-line sources; the controller's own, or those of `suite` beside them, where there are none.
        customize: the script that mmdebstrap runs when the packages are in.

    Raises:
        OSError or subprocess.CalledProcessError where apt cannot be asked.
    """
    own = codename()
    suite = suite or own
    lines = list(sources)
    settings: list[str] = []
    files: dict[str, str] = {}
    if shutil.which("apt-get"):
        settings = apt_settings(_output("apt-config", "dump"))
        files |= _files("/etc/apt/auth.conf", "/etc/apt/auth.conf.d")
    if not lines and shutil.which("apt-get"):
        listing = _output("apt-get", "indextargets", "--format", _TARGET_FORMAT, "Created-By: Packages")
        # Where the controller has no archive of another release, that lies beside the controller's own.
        targets = debian_targets(listing, suite) or other_release(debian_targets(listing, own), own, suite)
        # The file lies at the root of the one hierarchy, and below `unified` where there are others beside it.
        added, preferences = older_systemd(targets, suite, Path("/sys/fs/cgroup/cgroup.controllers").exists())
        targets += added
        files |= preferences
        keyrings = {
            uri: signed_by(_text(Path(entry)), uri) if Path(entry).is_file() else None for uri, _, _, entry in targets
        }
        lines = source_lines(targets, keyrings)
        files |= _files(*(name for name in keyrings.values() if name and not name.startswith(_DEBIAN_KEYRING)))
        if None in keyrings.values():
            files |= _files("/etc/apt/trusted.gpg", "/etc/apt/trusted.gpg.d")
    proxies, proxy_settings = proxy_files(os.environ)
    return Recipe(
        suite=suite,
        packages=tuple(packages),
        sources=tuple(lines),
        apt_settings=(*settings, *(line for line in proxy_settings if line not in settings)),
        files=files | _certificates() | proxies,
        customize=customize.read_text() if customize else "",
    )
