"""A port of a pod, on this host: through the API server, so that a kubeconfig is all it takes.

Each connection to the port here is one stream to the API server, as `kubectl port-forward` makes it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHUNK = 1 << 16


def _pump(source: Any, target: Any) -> None:
    """Carry bytes until there are no more."""
    with suppress(OSError):
        while block := source.recv(CHUNK):
            target.sendall(block)
    # Who reads the other end learns that nothing more comes.
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
    with suppress(OSError):
        source.close()


@contextmanager
def forwarded(kubeconfig: Path, context: str, namespace: str, pod: str, port: int) -> Iterator[int]:
    """Give the number of a port of 127.0.0.1 that leads to a pod's, as long as the block runs.

    Whoever is on this host can connect to it meanwhile: what listens there must ask who it is.

    Raises:
        OSError: where no port can be had here. What is wrong with the pod shows when one connects.
    """
    from kubernetes import client, config
    from kubernetes.stream import portforward

    configuration = client.Configuration()
    load: Any = config.load_kube_config  # the client has no types
    load(str(kubeconfig), context=context or None, client_configuration=configuration)

    def serve(connection: socket.socket) -> None:
        # One client for each: the library puts its streams in the place of the client's requests.
        api = client.CoreV1Api(client.ApiClient(configuration))
        try:
            stream = portforward(api.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(port))
            remote = stream.socket(port)
            remote.setblocking(True)
        except Exception:  # noqa: BLE001 - the client raises its own of every kind; the caller sees a closed connection
            connection.close()
            return
        threading.Thread(target=_pump, args=(connection, remote), daemon=True).start()
        _pump(remote, connection)

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield int(listener.getsockname()[1])
