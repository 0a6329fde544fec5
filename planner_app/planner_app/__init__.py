"""Execution Planners for virtual platforms, and the voter that chooses between their offers."""

__version__ = "0.1.0"
