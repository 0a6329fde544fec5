"""Run the planner of one virtual platform: ``python3 -m planner_app.planner --config FILE``."""

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Run until SIGTERM; returns 1 where the service cannot start."""
    parser = argparse.ArgumentParser(prog="planner", description="Execution Planner of one virtual platform.")
    parser.add_argument("--config", type=Path, required=True, help="its configuration, YAML")
    arguments = parser.parse_args()
    # structlog loads rich for its console where it finds it: 5 MB in each of many planners, which write JSON.
    sys.modules["rich"] = None  # type: ignore[assignment]
    from planner_app.planner.server import serve

    return serve(arguments.config)


if __name__ == "__main__":
    sys.exit(main())
