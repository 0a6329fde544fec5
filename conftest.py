"""What all tests share."""

# Before any test file: pytest names them after their folders, and `planner_app/tests` would otherwise make
# the project's folder, which is no package, pass for the package in it.
import planner_app  # noqa: F401
