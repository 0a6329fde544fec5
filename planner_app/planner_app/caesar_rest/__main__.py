"""Usage: python -m planner_app.caesar_rest app|monitor|accounter."""

import logging
import os
import signal
import sys
import threading

from planner_app.caesar_rest.settings import Settings


def main() -> None:
    """Run what is asked for."""
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    if what not in ("app", "monitor", "accounter"):
        sys.exit(str(__doc__))
    os.umask(0o022)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = Settings.of_environment(os.environ)
    if what == "app":
        import uvicorn

        from planner_app.caesar_rest.api import make_app

        uvicorn.run(make_app(settings), host="0.0.0.0", port=settings.port, access_log=False)  # noqa: S104
        return
    if what == "monitor":
        from planner_app.caesar_rest.monitor import follow
    else:
        from planner_app.caesar_rest.accounter import follow

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    follow(settings, stop)


if __name__ == "__main__":
    main()
