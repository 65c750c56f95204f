"""Questions answered with the letter of an option: one log-likelihood request, a continuation per letter."""

from collections.abc import Sequence

from evalkit.tasks import Doc, Loglikelihood, Loglikelihoods, Request, Response, Scored
from evalkit_tasks.multilingual.adapter import Adapter
from evalkit_tasks.multilingual.cells import MultilingualCell


class LetterAdapter(Adapter):
    """A document's fields hold `letters` (those before its options), `answer` (one of them) and `prompt`."""

    def requests(self, cell: MultilingualCell, doc: Doc) -> Sequence[Request]:
        return [Loglikelihood(doc.prefix + doc.fields["prompt"], tuple(f" {letter}" for letter in doc.fields["letters"]))]

    def score(self, cell: MultilingualCell, doc: Doc, responses: Sequence[Response]) -> Scored:
        (response,) = responses
        assert isinstance(response, Loglikelihoods)
        # ties go to the earlier letter, as numpy's argmax does
        best = max(range(len(response.logprobs)), key=lambda i: (response.logprobs[i], -i))
        chosen = doc.fields["letters"][best]
        return Scored({"acc": float(chosen == doc.fields["answer"])}, chosen, doc.fields["answer"])
