"""FLORES-101: the same 1,012 sentences in every language, into and out of English and Chinese (Goyal et al. 2022, TACL).

Five shots are the first sentences of dev. The prompt's wording is that of lm-eval's FLORES tasks. Greedy, to the end of the line.
"""

from collections.abc import Sequence

from evalkit.tasks import (
    TEXT,
    DataError,
    DataSource,
    Doc,
    Generate,
    Generated,
    Protocol,
    Request,
    Response,
    Scored,
    Table,
    TextFile,
    opening,
    prompt,
)
from evalkit_tasks.multilingual.adapter import Adapter, Loaded, first
from evalkit_tasks.multilingual.cells import FLORES_CODES, MultilingualCell

NAMES = {
    **{"ar": "Arabic", "es": "Spanish", "fr": "French", "pt": "Portuguese", "de": "German", "it": "Italian", "ru": "Russian"},
    **{"ja": "Japanese", "ko": "Korean", "vi": "Vietnamese", "th": "Thai", "id": "Indonesian", "en": "English", "zh": "Chinese"},
}
MAX_NEW_TOKENS = 256
DEVTEST = (
    "https://raw.githubusercontent.com/Helsinki-NLP/OPUS-MT-testsets/ac0f19c0be3cb4e0d9450fcb2d7a9847c4bdd180/datasets/facebook/flores"
)
DEV = "https://raw.githubusercontent.com/mozilla/firefox-translations-models/e7957fc407441a5e3e35bbcbf9d60d9b35764618/evaluation"
SHA256 = {
    "dev": {
        "ar": "6c3d4e291807a95f3a7c8e99ac499f23861264544a6393d906b514ef6f14a776",
        "de": "12fac774c6f79d966774a1829648a6e107700662e9e7b9e31ad08541382b97aa",
        "en": "51a25f527fd81f428b6933d85a2f5e5544af92aa82042c7fbf0c4120327fba0a",
        "fr": "7c1e1043b9d8cc6cb6fd4388ce068060f36518fd3597357a381cfdbe8ce5ab00",
        "id": "bf26d9a91c0ac76d2b9be2afe969d6e3af641ae947b930b830d4025c8961ce12",
        "it": "192429adab7b6c43f75db8363151a91b7a21cdb83bafc2a1d5ee2f1dec7f81c6",
        "ja": "17a422e2729f2eaecf7bf98aea70e3e72b8cac8acd72547d6ec1ada07ff92f4f",
        "ko": "b309cfc95f11fcf5be423eb43c31cef9aef91c504ebd25d4ef6b11cb916c29c2",
        "pt": "cf748f9311660dbfc4dbaad9301c98865c6b6f72fba86ee496e7b00e3472575e",
        "ru": "3cad8426c208a2d5f5ccb1bbf5b5284129ffc30636cff4f4421f5f6f31d891a5",
        "es": "9a99ddc459542da2d980b21cc049e799172545938cb02a5e7c92ebd8234b2121",
        "th": "87430676335bd14f1a578c982695c61ce2179dfa6df8ec530c4762fbc6b8ad27",
        "vi": "40a52e72054d03906de8231fd6f4de3d26cf0a19c4b2b525545128cfbfea7e2a",
        "zh": "ae677073476a27d6d11db642df5c18b86ca5dfcbbeefeba7d99ec93b7f5bd177",
    },
    "devtest": {
        "ar": "30b1810850402811f30ce90d7ac588351df8f4124967a642883bdbea7db32cdd",
        "de": "9a1bfa90d153fedb7ff80047f4a63d493998888eddb056e8a28e24592f26e5f2",
        "en": "612e9fbe87997617c0fa8fa8929654a4f49b728d96738112c2b86ef6a1d78d88",
        "fr": "82f5b000db419ef9254eea7857cce82943b361090942f17ed696e3dce2944f42",
        "id": "af77d7b4eb6d45f667967dab331411ec417be3c0a133623d4f6c6b9b9d2a1118",
        "it": "4166da51aba285736535916870142d7e9491494cee52b1db0808533399796a94",
        "ja": "36b8e392ae9404a20e8448c731d16d957ac1b94588d97fb691128ae706b63606",
        "ko": "540972696230a56e888f1fbd04b7000135c436351f5e467f99ce67fdccd8df0f",
        "pt": "1a04351c9b8c99a1808bb5da9051c06ffd1d65a5fe7236e40a80568abdbc67e7",
        "ru": "cdc706ed862d1d35d8d67cfda0b396766646885434958b18291aa760ff1bb59e",
        "es": "40fcb836b49b0a461a14c00b8bce1f03113f8d2668132af424e74b2421d18ce9",
        "th": "d9bed1bf963821eab20051b18674950f345b67b0d0925290eaa6836eb06e76ca",
        "vi": "86b70984f053cae5f5d554bc9e9d00397773b8325bed7e12e7695c2e61897cb0",
        "zh": "b30158b1b76f7cee08530d8127a9769f4512597c7eefe97ae1ccf630d5b6e7fd",
    },
}


class Flores(Adapter):
    def tables(self, cell: MultilingualCell, source: DataSource) -> list[Table]:
        return [table(language, split) for split in ("dev", "devtest") for language in cell.language.split("-")]

    def load(self, cell: MultilingualCell, source: DataSource, shots: int, seed: int, protocol: Protocol) -> Loaded:
        worked = first(self._pairs(cell, source, cell.shots_from), shots, cell)
        prefix, messages = opening(protocol, "", [(_question(cell, given), wanted) for given, wanted in worked], " ", "\n\n")
        docs = [
            Doc(f"{cell.name}/{i}", cell.name, {"sentence": i, "source": given, "reference": wanted}, prefix, f"flores/{i}", messages)
            for i, (given, wanted) in enumerate(self._pairs(cell, source, cell.split))
        ]
        return Loaded(docs)

    def _pairs(self, cell: MultilingualCell, source: DataSource, split: str) -> list[tuple[str, str]]:
        languages = cell.language.split("-")
        given, wanted = ([row["sentence"].strip() for row in source.rows(table(language, split))] for language in languages)
        if len(given) != len(wanted):
            raise DataError(f"{cell.name} {split}: {len(given)} sentences and {len(wanted)} translations")
        return list(zip(given, wanted, strict=True))

    def requests(self, cell: MultilingualCell, doc: Doc, protocol: Protocol) -> Sequence[Request]:
        context, messages = prompt(protocol, doc, _question(cell, doc.fields["source"]))
        return [Generate(context, ("\n",), MAX_NEW_TOKENS, messages=messages)]

    def score(self, cell: MultilingualCell, doc: Doc, responses: Sequence[Response]) -> Scored:
        (response,) = responses
        assert isinstance(response, Generated)
        hypothesis = response.text.strip()
        reference = doc.fields["reference"]
        return Scored({cell.metric: ((reference,), hypothesis)}, hypothesis, reference, not hypothesis)

    def question(self, doc: Doc) -> str:
        return str(doc.fields["source"])

    def score_text(self, cell: MultilingualCell, doc: Doc, text: str) -> Scored:
        return self.score(cell, doc, [Generated(text, "given", 0)])


def table(language: str, split: str) -> Table:
    """The sentences of one language."""
    code = FLORES_CODES[language]
    path = f"flores101/flores101_dataset/{split}/{code}.{split}"
    other = "de" if language == "en" else language  # that repository sorts its files by language pair
    url = f"{DEVTEST}/flores101_dataset/devtest/{code}.devtest" if split == "devtest" else f"{DEV}/en-{other}/flores-dev.{language}"
    return Table(path, {"sentence": TEXT}, TextFile(path, url, SHA256[split][language]), "lines")


def _question(cell: MultilingualCell, sentence: str) -> str:
    source, target = cell.language.split("-")
    return f"{NAMES[source]} sentence: {sentence}\n{NAMES[target]} sentence:"
