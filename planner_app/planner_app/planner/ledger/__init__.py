"""What was asked, offered and promised, in one database.

A quote and its reservation are one transaction, and so are every change of phase and its record, so that two
requests never get the same core and a killed planner finds everything it has promised. The calls block for
the length of a short transaction.
"""

from planner_app.planner.ledger.rows import Event, Level, Note, OfferSetRow, SessionRow
from planner_app.planner.ledger.store import Ask, Found, IllegalChange, Ledger, Reserved

__all__ = [
    "Ask",
    "Event",
    "Found",
    "IllegalChange",
    "Ledger",
    "Level",
    "Note",
    "OfferSetRow",
    "Reserved",
    "SessionRow",
]
