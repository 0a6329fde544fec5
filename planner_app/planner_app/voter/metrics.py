"""What the voter counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """What is counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.ballots = Counter(
            "caesar_voter_ballots", "Ballots by what became of them.", ["state"], registry=self.registry
        )
        self.answers = Counter(
            "caesar_voter_answers", "Planners' answers by verdict.", ["planner", "verdict"], registry=self.registry
        )
        self.wins = Counter("caesar_voter_wins", "Offers accepted.", ["planner"], registry=self.registry)
        self.vote = Histogram(
            "caesar_voter_vote_seconds",
            "From the question to the accepted offer.",
            buckets=(0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2, 4, 8),
            registry=self.registry,
        )
        self.followed = Gauge("caesar_voter_followed_sessions", "Sessions that run.", registry=self.registry)
        self.unwanted = Gauge(
            "caesar_voter_unwanted_offers", "Offers still to be rejected or cancelled.", registry=self.registry
        )
        self.jobs = Counter(
            "caesar_voter_jobs", "Jobs of caesar-rest by what became of them.", ["state"], registry=self.registry
        )
