"""From what is asked, what is held and what is allowed to offers, or to every reason why there are none.

Pure: no clock, no database, no platform. Amounts of disc are in GB, memory in GiB.
"""

from planner_app.planner.quoting.amounts import PREPARING, RELEASING, RESOURCES, WORDS, Amount, Hold, Reservation
from planner_app.planner.quoting.holds import Book, holds_of
from planner_app.planner.quoting.offers import quote
from planner_app.planner.quoting.profile import Profile
from planner_app.planner.quoting.terms import Demand, Offer, Quote, Reason, cost_of, fill, refusal

__all__ = [
    "PREPARING",
    "RELEASING",
    "RESOURCES",
    "WORDS",
    "Amount",
    "Book",
    "Demand",
    "Hold",
    "Offer",
    "Profile",
    "Quote",
    "Reason",
    "Reservation",
    "cost_of",
    "fill",
    "holds_of",
    "quote",
    "refusal",
]
