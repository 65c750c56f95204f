"""Guesses at a sequence's next tokens: what followed when its last ones were seen before (prompt lookup).

A step that runs guesses too reads the weights no more often, and keeps those that the model would have chosen: the answer is the
same to the bit, in fewer steps. Chains of thought repeat their question, code its names, and a small model at its wits' end itself.
"""

from collections.abc import Sequence

SEEN = 3  # tokens that must have been seen together
LONGEST = 16


class Drafter:
    """Follows one sequence's tokens, and knows how often its guesses came true of late, whether or not anyone asked for them."""

    def __init__(self, prompt: Sequence[int]):
        self.tokens = list(prompt)
        self.streak = 0  # guesses that came true one after the other
        # the last SEEN tokens -> where the next one stood
        self._places = {tuple(self.tokens[end - SEEN : end]): end for end in range(SEEN, len(self.tokens))}
        self._next = self._places.get(tuple(self.tokens[-SEEN:]))  # where the next token is guessed to be

    def add(self, token: int) -> None:
        came_true = self._next is not None and self.tokens[self._next] == token
        self._places[tuple(self.tokens[-SEEN:])] = len(self.tokens)
        self.tokens.append(token)
        if self._next is not None and came_true:
            self.streak, self._next = self.streak + 1, self._next + 1
        else:
            self.streak, self._next = 0, self._places.get(tuple(self.tokens[-SEEN:]))

    def guess(self, more: int) -> list[int]:
        """As many tokens as came true of late, and `more`; none where the last ones are new."""
        if self._next is None:
            return []
        found: list[int] = []
        for at in range(self._next, self._next + min(self.streak + more, LONGEST)):
            # past the end it goes on with its own guesses: a loop
            found.append(self.tokens[at] if at < len(self.tokens) else found[at - len(self.tokens)])
        return found
