"""Serve one service of OpenStack on loopback. Runs in the control plane's own environment.

Usage: serve.py SERVICE PORT DIRECTORY   (keystone, placement, glance, neutron, nova, cinder; DIRECTORY has their files)

All that belongs to nova, or to cinder, is one process, so that no message bus is needed. Every request is written
to DIRECTORY/SERVICE.requests, one JSON object a line: that is how tests see which writes reached the cloud.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path

SERVICE, PORT, DIRECTORY = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
sys.argv = sys.argv[:1]
#: Measured: with more threads, or with all of them IMMEDIATE, SQLite's locks are waited for in vain now and then.
THREADS = {"nova": 4}
IMMEDIATE = {"neutron", "nova", "cinder"}
#: Of the fake hypervisor; two, so that servers can be kept apart, and only two, so that it fails for three.
HOSTS = ("compute-1", "compute-2")
WSGI = {
    "keystone": "keystone.wsgi.api",
    "placement": "placement.wsgi.api",
    "glance": "glance.wsgi.api",
    "neutron": "neutron.wsgi.api",
    "nova": "nova.wsgi.osapi_compute",
    "cinder": "cinder.wsgi.api",
}


def prepare_sqlite() -> None:
    """Let writers wait for each other, and take the lock for writing at the start where reads turn into writes."""
    import sqlalchemy.event
    from sqlalchemy.engine import Engine

    @sqlalchemy.event.listens_for(Engine, "connect")
    def connect(connection, _record):
        connection.execute("PRAGMA busy_timeout = 60000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")

    if SERVICE in IMMEDIATE:

        @sqlalchemy.event.listens_for(Engine, "before_cursor_execute", retval=True)
        def begin(_connection, _cursor, statement, parameters, _context, _many):
            return ("BEGIN IMMEDIATE" if statement == "BEGIN" else statement), parameters


def wait_for(*services: str) -> None:
    """Wait until these are served."""
    ports = json.loads((DIRECTORY / "ports.json").read_text())
    for service in services:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ports[service]), timeout=5):
                break
            time.sleep(0.1)


def start_nova() -> None:
    """Start conductor, scheduler and a compute for each host in this process, as nova's own functional tests do."""
    from nova import context, objects, service
    from nova.compute import rpcapi as compute
    from nova.conductor import rpcapi as conductor
    from nova.objects import host_mapping
    from nova.scheduler import rpcapi as scheduler
    from nova.virt import fake

    objects.register_all()
    import os_vif

    os_vif.initialize()
    service.Service.create(binary="nova-conductor", topic=conductor.RPC_TOPIC).start()
    service.Service.create(binary="nova-scheduler", topic=scheduler.RPC_TOPIC).start()
    # Else the fake hypervisor's would be others after a restart, and the database has those of before.
    idents = {host: str(uuid.uuid5(uuid.NAMESPACE_DNS, host)) for host in HOSTS}
    (DIRECTORY / "compute_id").write_text(idents[HOSTS[0]])
    for host, ident in idents.items():
        setattr(fake.uuids, f"node_{host}", ident)
        service.Service.create(
            host=host, binary="nova-compute", topic=compute.RPC_TOPIC, topic_alt=compute.RPC_TOPIC_ALT
        ).start()
    host_mapping.discover_hosts(context.get_admin_context())


def start_cinder() -> None:
    """Start scheduler and volume manager in this process."""
    from cinder import service
    from cinder.common import constants
    from oslo_config import cfg

    host = f"{cfg.CONF.host}@pretended"
    for made in (
        service.Service.create(binary=constants.SCHEDULER_BINARY),
        service.Service.create(host=host, service_name="pretended", binary=constants.VOLUME_BINARY, coordination=True),
    ):
        made.start()


def logged(application):
    """Write down what is asked."""
    out = (DIRECTORY / f"{SERVICE}.requests").open("a", buffering=1, encoding="utf-8")
    lock = threading.Lock()

    def call(environ, start_response):
        began = time.monotonic()

        def started(status, headers, *rest):
            line = {
                "method": environ["REQUEST_METHOD"],
                "path": environ.get("PATH_INFO", ""),
                "query": environ.get("QUERY_STRING", ""),
                "agent": environ.get("HTTP_USER_AGENT", ""),
                "status": int(status.split()[0]),
                "seconds": round(time.monotonic() - began, 3),
                "at": round(time.time(), 3),
            }
            with lock:
                out.write(json.dumps(line) + "\n")
            return start_response(status, headers, *rest)

        return application(environ, started)

    return call


def main() -> None:
    """Load the service and serve it."""
    os.environ[f"OS_{SERVICE.upper()}_CONFIG_DIR"] = str(DIRECTORY)
    if SERVICE == "neutron":
        os.environ["OS_NEUTRON_CONFIG_FILES"] = "neutron.conf"
    if SERVICE == "cinder":
        # It takes its configuration from its command line.
        sys.argv.append(f"--config-file={DIRECTORY}/cinder.conf")
    if SERVICE == "nova":
        os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "true"
    prepare_sqlite()
    application = importlib.import_module(WSGI[SERVICE]).application
    # Neutron's list of ports names relations that are there only after this; else it fails where it is asked first.
    importlib.import_module("sqlalchemy.orm").configure_mappers()
    if SERVICE == "nova":
        wait_for("keystone", "placement")
        start_nova()
    if SERVICE == "cinder":
        start_cinder()
    import waitress

    waitress.serve(logged(application), host="127.0.0.1", port=PORT, threads=THREADS.get(SERVICE, 1))


main()
