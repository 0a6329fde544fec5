"""Execution Planners for virtual platforms, and the voter that chooses between their offers."""
