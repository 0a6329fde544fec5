"""Run the voter: ``python3 -m planner_app.voter --config FILE``."""

import sys

# structlog loads rich for its console where it finds it: 4 MB, and the voter writes JSON.
sys.modules["rich"] = None  # type: ignore[assignment]

from planner_app.voter.server import main  # noqa: E402

if __name__ == "__main__":
    main()
