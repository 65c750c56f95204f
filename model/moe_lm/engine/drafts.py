"""Drafts of a sequence's next tokens: what followed the last time that its latest tokens occurred (prompt lookup).

A step that also runs guesses reads the weights only once, and keeps the guesses that the model would have chosen: the answer is the
same to the bit, in fewer steps. Chains of thought repeat the question, code repeats names, and small models may repeat themselves.
"""

from collections.abc import Sequence

SEEN = 3  # length of the sequence of tokens that must have occurred before
LONGEST = 16


class Drafter:
    """Follows one sequence's tokens and how many of its recent guesses were right, whether or not they were used."""

    def __init__(self, prompt: Sequence[int]):
        self.tokens = list(prompt)
        self.streak = 0  # consecutive right guesses
        # the last SEEN tokens -> position of the token after them
        self._places = {tuple(self.tokens[end - SEEN : end]): end for end in range(SEEN, len(self.tokens))}
        self._next = self._places.get(tuple(self.tokens[-SEEN:]))  # position of the guess for the next token

    def add(self, token: int) -> None:
        came_true = self._next is not None and self.tokens[self._next] == token
        self._places[tuple(self.tokens[-SEEN:])] = len(self.tokens)
        self.tokens.append(token)
        if self._next is not None and came_true:
            self.streak, self._next = self.streak + 1, self._next + 1
        else:
            self.streak, self._next = 0, self._places.get(tuple(self.tokens[-SEEN:]))

    def guess(self, more: int) -> list[int]:
        """As many tokens as were right recently, plus `more`; none if the last tokens are new."""
        if self._next is None:
            return []
        found: list[int] = []
        for at in range(self._next, self._next + min(self.streak + more, LONGEST)):
            # past the end it continues with its own guesses, in a loop
            found.append(self.tokens[at] if at < len(self.tokens) else found[at - len(self.tokens)])
        return found
