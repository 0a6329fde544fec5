"""Run the voter: ``python3 -m planner_app.voter --config FILE``."""

import sys

# httpx has a command line, and loads it with rich and pygments where they are: three megabytes for nothing.
sys.modules["httpx._main"] = None  # type: ignore[assignment]

from planner_app.voter.server import main  # noqa: E402 - only now

if __name__ == "__main__":
    main()
