"""The multilingual suite as one table: nine sets over twelve languages, 101 cells in four categories.

Sets, languages and shots are Qwen's (Qwen2's blog and QwenLM/Qwen3#1252: the lists are Qwen1.5's own). Shots come from `shots_from`: a dev
split, the benchmark's worked examples, or "drawn": from the test split, whose rows in a shot's cluster are then not tested.
"""

from dataclasses import dataclass

from evalkit.tasks import SuiteCell

LANGUAGES = ("ar", "es", "fr", "pt", "de", "it", "ru", "ja", "ko", "vi", "th", "id")
CATEGORIES = ("exams", "understanding", "math", "translation")
PIVOTS = ("en", "zh")  # FLORES: from and into these


@dataclass(frozen=True, slots=True)
class MultilingualCell(SuiteCell):
    """One row of the table. `lm_eval`: the definition that prompts and scores it, below lm_eval/tasks; "" where it is ours.

    `data`: where its files are in a folder ("": one file for all); `documents`: their number with drawn shots, 0 where unknown.
    """

    shots: int = 0
    shots_from: str = ""
    split: str = "test"
    lm_eval: str = ""
    data: str = ""
    documents: int = 0


@dataclass(frozen=True, slots=True)
class _Set:
    """One line of the table for all languages of a set; {} stands for the language's code there."""

    name: str
    category: str
    shots: int
    shots_from: str
    metric: str
    split: str
    lm_eval: str
    codes: dict[str, str]  # language -> the code in `lm_eval` and `data`
    data: str
    documents: int | dict[str, int]


def _same(languages: str) -> dict[str, str]:
    return {language: language for language in languages.split()}


_BELEBELE = {
    **{"ar": "arb_Arab", "es": "spa_Latn", "fr": "fra_Latn", "pt": "por_Latn", "de": "deu_Latn", "it": "ita_Latn"},
    **{"ru": "rus_Cyrl", "ja": "jpn_Jpan", "ko": "kor_Hang", "vi": "vie_Latn", "th": "tha_Thai", "id": "ind_Latn"},
}
_M3EXAM = {"pt": "portuguese", "it": "italian", "vi": "vietnamese", "th": "thai"}
_XWINOGRAD = {"fr": "fr", "pt": "pt", "ru": "ru", "ja": "jp"}
_PAWSX = _same("es fr de ja ko")
_MGSM = _same("es fr ru de ja th")
_MGSM_DEFINITION = "mgsm/native_cot/mgsm_native_cot_{}.yaml"
# no copy of M3Exam in Italian and Portuguese was available
_XWINOGRAD_COUNTS = {"fr": 83, "pt": 263, "ru": 315, "ja": 959}
_M3EXAM_COUNTS = {"pt": 0, "it": 0, "vi": 1789, "th": 2163}
_PAWSX_COUNTS = {"es": 1999, "fr": 1986, "de": 1968, "ja": 1946, "ko": 1972}

_SETS = (
    # set, category, shots and where from, metric, split, lm-eval's definition, languages, data, documents
    _Set("mmmlu", "exams", 5, "dev", "acc", "test", "", _same("ar es fr pt de it ru ja ko id"), "mmmlu/{}", 14_042),
    _Set("m3exam", "exams", 5, "dev", "acc", "test", "", _M3EXAM, "m3exam/{}", _M3EXAM_COUNTS),
    _Set("belebele", "understanding", 5, "drawn", "acc", "test", "belebele/belebele_{}.yaml", _BELEBELE, "belebele/{}.jsonl", 900),
    _Set("xwinograd", "understanding", 5, "drawn", "acc", "test", "xwinograd/xwinograd_{}.yaml", _XWINOGRAD, "", _XWINOGRAD_COUNTS),
    _Set("xcopa", "understanding", 5, "dev", "acc", "test", "xcopa/default_{}.yaml", _same("vi id th"), "xcopa/data/{}", 500),
    _Set("pawsx", "understanding", 5, "dev", "acc", "test", "paws-x/paws_{}.yaml", _PAWSX, "pawsx/x-final/{}", _PAWSX_COUNTS),
    _Set("xstorycloze", "understanding", 0, "", "acc", "eval", "xstorycloze/default_{}.yaml", _same("ar es ru id"), "", 1_511),
    _Set("mgsm", "math", 8, "exemplars", "exact_match_flexible", "test", _MGSM_DEFINITION, _MGSM, "mgsm/mgsm_{}.tsv", 250),
)

FLORES_CODES = {
    **{"ar": "ara", "es": "spa", "fr": "fra", "pt": "por", "de": "deu", "it": "ita", "ru": "rus", "ja": "jpn", "ko": "kor"},
    **{"vi": "vie", "th": "tha", "id": "ind", "en": "eng", "zh": "zho_simpl"},
}
# sacrebleu's default, 13a, finds no words in scripts that do not put blanks between them
TOKENIZE = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab", "th": "char"}


def _expand(row: _Set) -> list[MultilingualCell]:
    return [
        MultilingualCell(
            name=f"{row.name}:{language}",
            set=row.name,
            language=language,
            category=row.category,
            metric=row.metric,
            shots=row.shots,
            shots_from=row.shots_from,
            split=row.split,
            lm_eval=row.lm_eval.format(code),
            data=row.data.format(code),
            documents=row.documents if isinstance(row.documents, int) else row.documents[language],
        )
        for language, code in row.codes.items()
    ]


def _flores() -> list[MultilingualCell]:
    """48 directions: from and into English and Chinese."""
    pairs = [pair for pivot in PIVOTS for language in LANGUAGES for pair in ((pivot, language), (language, pivot))]
    return [
        MultilingualCell(
            name=f"flores:{source}-{target}",
            set="flores",
            language=f"{source}-{target}",
            category="translation",
            metric="bleu",
            tokenize=TOKENIZE.get(target, "13a"),
            shots=5,
            shots_from="dev",
            split="devtest",
            data="flores101/flores101_dataset",
            documents=1012,
        )
        for source, target in pairs
    ]


CELLS: tuple[MultilingualCell, ...] = (*(cell for row in _SETS for cell in _expand(row)), *_flores())
BY_NAME = {cell.name: cell for cell in CELLS}
SETS = tuple(dict.fromkeys(cell.set for cell in CELLS))
