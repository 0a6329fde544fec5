"""The voter: asks all planners, chooses between their offers, accepts one and follows what becomes of it."""
