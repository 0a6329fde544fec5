"""Budgets: what a user may spend in a span of time, kept with the ballots.

The span slides: what was accepted longer ago than a budget's period does not count any more. An amount is taken
when an offer is about to be accepted, in one transaction with the look at what is left, so two votes at once
cannot spend the same; it is given back where the offer is not given or the job never ran.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, func, insert, select

from planner_app.voter import database
from planner_app.voter.answers import Left
from planner_app.voter.database import Database
from planner_app.voter.text import amount_of_time

_spending = database.spending
EVERYBODY = "*"
"""The user of a budget that each user has for himself who has none of his own for that cost."""


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `amount` of a cost for a user in a period."""

    user: str
    cost: str
    amount: float
    period: timedelta

    def words(self, user: str) -> str:
        """Write the budget for people."""
        return f"{self.amount:g} of {user} in {amount_of_time(self.period)}"


class Budgets:
    """All budgets and what was spent."""

    def __init__(self, store: Database, budgets: Sequence[Budget]) -> None:
        self._database = store
        self._budgets = tuple(budgets)

    def of(self, user: str) -> list[Budget]:
        """Find the budgets that bind a user: his own, and everybody's for costs that he has no own one for."""
        own = [budget for budget in self._budgets if budget.user == user]
        costs = {budget.cost for budget in own}
        return own + [b for b in self._budgets if b.user == EVERYBODY and b.cost not in costs]

    async def left(self, user: str) -> tuple[Left, ...]:
        """Tell what a user may still spend, the scarcest of each cost first."""
        budgets = self.of(user)
        if not budgets:
            return ()
        return await self._database.do(lambda connection: _left(connection, user, budgets, None))

    async def take(self, ballot: str, user: str, costs: Mapping[str, float]) -> str | None:
        """Take what an offer costs, in place of what its ballot took before; say what it is too much for, if so."""
        budgets = self.of(user)
        if not budgets:
            return None
        now = datetime.now(UTC).isoformat()

        def work(connection: Connection) -> str | None:
            for left in _left(connection, user, budgets, ballot):
                if costs.get(left.cost, 0.0) > left.left:
                    return f"{left.cost} cost is {costs[left.cost]:g}, {max(left.left, 0):g} is left of {left.budget}"
            _give_back(connection, ballot)
            for cost in dict.fromkeys(budget.cost for budget in budgets):
                row = {"ballot": ballot, "cost": cost, "user": user, "time": now, "amount": costs.get(cost, 0.0)}
                connection.execute(insert(_spending), row)
            return None

        return await self._database.do(work)

    async def give_back(self, ballot: str) -> None:
        """Take nothing for a ballot after all."""
        await self._database.do(lambda connection: _give_back(connection, ballot))


def _give_back(connection: Connection, ballot: str) -> None:
    connection.execute(delete(_spending).where(_spending.c.ballot == ballot))


def _left(connection: Connection, user: str, budgets: Sequence[Budget], but: str | None) -> tuple[Left, ...]:
    lefts = []
    for budget in budgets:
        since = (datetime.now(UTC) - budget.period).isoformat()
        query = select(func.coalesce(func.sum(_spending.c.amount), 0.0)).where(
            _spending.c.user == user, _spending.c.cost == budget.cost, _spending.c.time > since
        )
        if but is not None:
            query = query.where(_spending.c.ballot != but)
        spent = float(connection.execute(query).scalar_one())
        # Sums of tenths are a hair off; nobody is to be refused for that.
        lefts.append(Left(budget.cost, round(budget.amount - spent, 9), budget.words(user)))
    return tuple(sorted(lefts, key=lambda left: (left.cost, left.left)))
