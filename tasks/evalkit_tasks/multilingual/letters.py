"""Questions answered with the letter of an option: one log-likelihood request, a continuation per letter."""

import re
from collections.abc import Sequence

from evalkit.tasks import Doc, Loglikelihood, Loglikelihoods, Protocol, Request, Response, Scored, delimiter, prompt
from evalkit_tasks.choices import score_choice
from evalkit_tasks.multilingual.adapter import Adapter
from evalkit_tasks.multilingual.cells import MultilingualCell


class LetterAdapter(Adapter):
    """A document's fields hold `letters` (those before its options), `answer` (one of them) and `prompt`."""

    def requests(self, cell: MultilingualCell, doc: Doc, protocol: Protocol) -> Sequence[Request]:
        context, messages = prompt(protocol, doc, doc.fields["prompt"])
        before = delimiter(protocol)
        return [Loglikelihood(context, tuple(before + letter for letter in doc.fields["letters"]), messages=messages)]

    def score(self, cell: MultilingualCell, doc: Doc, responses: Sequence[Response]) -> Scored:
        (response,) = responses
        assert isinstance(response, Loglikelihoods)
        # ties go to the earlier letter, as numpy's argmax does
        best = max(range(len(response.logprobs)), key=lambda i: (response.logprobs[i], -i))
        chosen = doc.fields["letters"][best]
        return Scored({"acc": float(chosen == doc.fields["answer"])}, chosen, doc.fields["answer"])

    def question(self, doc: Doc) -> str:
        return "\n".join(doc.fields["prompt"].split("\n")[: -1 - len(doc.fields["letters"])]).removeprefix("Question: ")

    def score_text(self, cell: MultilingualCell, doc: Doc, text: str) -> Scored:
        return score_choice(text, doc.fields["letters"], _options(doc), doc.fields["answer"])


def _options(doc: Doc) -> list[str]:
    """The options' texts: the lines before the last one of the prompt, each after its letter."""
    letters = doc.fields["letters"]
    lines = doc.fields["prompt"].split("\n")[-1 - len(letters) : -1]
    return [re.sub(rf"^\(?{re.escape(letter)}[.):]\s*", "", line) for letter, line in zip(letters, lines, strict=True)]
