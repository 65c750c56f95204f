"""Documents that their own prompt gives away: what is asked about them also stands among its worked examples, with the answer."""

from collections.abc import Sequence

from evalkit.record.sample import Sample
from evalkit.tasks import last_asked


def in_shots(samples: Sequence[Sample]) -> tuple[str, ...]:
    """The ids of documents whose item, whatever its blanks and capitals, is found in the prefix (header and shots) of its own prompt."""
    prefixes: dict[str, str] = {}
    found = []
    for sample in samples:
        prefix = sample.doc.prefix or "\n".join(content for _, content in sample.doc.messages)
        if not prefix:
            continue
        if prefix not in prefixes:
            prefixes[prefix] = _plain(prefix)
        items = {_plain(last_asked(request).removeprefix(prefix)) for request in sample.requests}
        if any(item and item in prefixes[prefix] for item in items):
            found.append(sample.doc.id)
    return tuple(found)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
