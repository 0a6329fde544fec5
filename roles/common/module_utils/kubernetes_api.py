"""The Kubernetes API as plain documents: a kubeconfig, one connection pool, JSON in and out.

The official client's models take 0.6 s to import and are not needed to apply documents. It is asked only where a
kubeconfig logs in by a program or a provider.
"""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import urllib3
import yaml

Object = dict[str, Any]

CONNECT_SECONDS = 5.0
#: What only asks is answered at once, or the server is down; a change may have to wait for others.
ANSWER_SECONDS = 12.0
CHANGE_SECONDS = 30.0
#: Connections that are kept; more at once do not make an API server on two cores faster.
CONNECTIONS = 6


class ApiError(Exception):
    """The API server refused, or does not answer (`status` 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Access:
    """How a cluster is reached: what a kubeconfig's context says."""

    server: str
    authority: bytes  # PEM of the certificate authority; empty for those of the system
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)


def _named(entries: Any, name: str, kind: str, path: Path) -> Mapping[str, Any]:
    for entry in entries or []:
        if entry.get("name") == name:
            return dict(entry.get(kind) or {})
    raise ValueError(f"{path} has no {kind} named {name!r}")


def _bytes(entry: Mapping[str, Any], key: str, path: Path) -> bytes:
    if entry.get(f"{key}-data"):
        return base64.b64decode(str(entry[f"{key}-data"]))
    if entry.get(key):
        return (path.parent / str(entry[key])).read_bytes()
    return b""


def read_kubeconfig(path: Path, context: str = "") -> Access:
    """Read how a cluster is reached.

    Raises:
        OSError: where the file, or one that it names, cannot be read.
        ValueError: where it lacks the context or what the context names.
    """
    document = yaml.safe_load(path.read_text()) or {}
    name = context or document.get("current-context") or ""
    chosen = _named(document.get("contexts"), name, "context", path)
    cluster = _named(document.get("clusters"), chosen.get("cluster", ""), "cluster", path)
    user = _named(document.get("users"), chosen.get("user", ""), "user", path)
    server, authority = str(cluster["server"]).rstrip("/"), _bytes(cluster, "certificate-authority", path)
    if user.get("exec") or user.get("auth-provider"):
        from kubernetes.client import Configuration
        from kubernetes.config import kube_config

        login: Any = Configuration()
        load: Any = kube_config.load_kube_config  # the client has no types
        load(config_file=str(path), context=name, client_configuration=login, persist_config=False)
        # Its name differs between the client's versions.
        token = next(iter(login.api_key.values()), "")
        return Access(server, authority, token=token.removeprefix("Bearer "))
    token = str(user.get("token") or "")
    if not token and user.get("tokenFile"):
        token = (path.parent / user["tokenFile"]).read_text().strip()
    return Access(
        server,
        authority,
        certificate=_bytes(user, "client-certificate", path),
        key=_bytes(user, "client-key", path),
        token=token,
    )


class Api:
    """A cluster's API server; may be used by several threads."""

    def __init__(self, access: Access) -> None:
        self.access = access
        context = ssl.create_default_context(cadata=access.authority.decode() if access.authority else None)
        if access.certificate:
            with tempfile.NamedTemporaryFile() as pair:  # 0600; ssl reads files only
                pair.write(access.certificate + b"\n" + access.key)
                pair.flush()
                context.load_cert_chain(pair.name)
        self._headers = {"Accept": "application/json"}
        if access.token:
            self._headers["Authorization"] = f"Bearer {access.token}"
        self._pool = urllib3.PoolManager(
            maxsize=CONNECTIONS,
            block=True,
            ssl_context=context,
            retries=False,
        )

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """Send one request and give the reply's document.

        Raises:
            ApiError: where the server refuses or does not answer.
        """
        url = f"{self.access.server}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = self._headers | ({"Content-Type": content_type} if body is not None else {})
        data = json.dumps(body).encode() if body is not None else None
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS if method == "GET" else CHANGE_SECONDS)
        try:
            reply = self._pool.request(method, url, body=data, headers=headers, timeout=timeout)
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(0, f"the API server at {self.access.server} does not answer: {error}") from error
        try:
            document = json.loads(reply.data or b"{}")
        except ValueError:
            document = {"message": reply.data.decode(errors="replace")[:300]}
        if reply.status >= 400:
            raise ApiError(reply.status, str(document.get("message") or f"{method} {path}: {reply.status}"))
        return dict(document)

    def list_all(self, path: str, selector: str = "", name: str = "") -> list[Object]:
        """Give all objects of a kind that the selector of labels chooses, in pages of 500.

        With `name` those of that name only, which a user may be allowed to list who may not list the others.
        """
        query = {"limit": "500"} | ({"labelSelector": selector} if selector else {})
        query |= {"fieldSelector": f"metadata.name={name}"} if name else {}
        found: list[Object] = []
        while True:
            page = self.request("GET", path, query=query)
            found += page.get("items") or []
            more = (page.get("metadata") or {}).get("continue")
            if not more:
                return found
            query["continue"] = more


Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Call a function for each item, as many at once as there are connections; after an error no more are begun."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


#: What a module takes that talks to a cluster.
ACCESS_OPTIONS: dict[str, Any] = {
    "kubeconfig": {"type": "path", "required": True},
    "context": {"type": "str", "default": ""},
}


def run_module(module: Any, run: Callable[[Api | None, dict[str, Any], bool], dict[str, Any]]) -> None:
    """Do a module's work and end it, with one clear error where that fails.

    Args:
        module: an AnsibleModule that takes ACCESS_OPTIONS.
        run: takes the cluster, the module's parameters and whether this is a dry run; gives the module's result.
            There is no cluster yet where a dry run finds no kubeconfig.
    """
    parameters = module.params
    kubeconfig = Path(parameters["kubeconfig"])
    try:
        unmade = module.check_mode and not kubeconfig.exists()
        api = None if unmade else Api(read_kubeconfig(kubeconfig, parameters["context"]))
        result = run(api, parameters, module.check_mode)
    except ApiError as error:
        module.fail_json(msg=error.message, status=error.status)
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    else:
        module.exit_json(**result)
