"""Pairwise verdicts -> wins, losses and ties, as FastChat's show_result: both orders must agree, else it is a tie."""

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.judge.score import clustered_mean
from evalkit.record.schema import PairOutcome
from evalkit.tasks import JudgedTask


@dataclass(frozen=True, slots=True)
class Game:
    """One turn of one question in both orders: who won each ("ours", "theirs", "tie", None for no verdict)."""

    question_id: str
    category: str
    turn: int
    repeat: int
    first: str | None  # ours stood first
    second: str | None

    @property
    def winner(self) -> str | None:
        """None where either order has no verdict; FastChat drops such a game."""
        if self.first is None or self.second is None:
            return None
        return self.first if self.first == self.second else "tie"


def winner(task: JudgedTask, text: str | None, order: str, reader: str) -> str | None:
    """A text's verdict in terms of the two runs."""
    verdict = task.verdict(text, reader)
    names = {"ab": {"A": "ours", "B": "theirs"}, "ba": {"A": "theirs", "B": "ours"}}[order]
    return None if verdict is None else names.get(verdict, verdict)


def outcome(games: Sequence[Game]) -> PairOutcome:
    """Wins, losses, ties, games without a verdict; the share won with ties counted half, and its interval clustered by question."""
    wins, losses, ties = (sum(game.winner == who for game in games) for who in ("ours", "theirs", "tie"))
    played = [game for game in games if game.winner is not None]
    points = {"ours": 1.0, "theirs": 0.0, "tie": 0.5}
    return PairOutcome(
        games=len(games),
        win=wins,
        loss=losses,
        tie=ties,
        no_verdict=len(games) - len(played),
        win_rate_adjusted=clustered_mean(((game.question_id, points[game.winner or "tie"]) for game in played), (0.0, 1.0)),
        inconsistent=sum(g.first != g.second for g in played) / len(played) if played else None,
    )
