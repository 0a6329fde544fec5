"""Run the voter: ``python3 -m planner_app.voter --config FILE``."""

from planner_app.voter.server import main

if __name__ == "__main__":
    main()
