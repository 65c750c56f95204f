"""Numbers in a text, in any usual spelling, as plain decimals: for the protocols that are ours.

The signs -, U+2212 and their wide forms, a currency before or after the sign; groups of three (or India's twos) between commas, blanks,
apostrophes or LaTeX's {,} and \\,; a decimal point, with or without a digit before it; an exponent; the digits of any script. A comma
before fewer than three digits separates two numbers ("1,2"), except after groups between points ("1.234,56").
"""

import re
import unicodedata

_MINUS = "-\u2212\ufe63\uff0d"
_GROUPS = r"(?:,|\{,\}|\\,|['\u2019 \u00a0\u2007\u2009\u202f])"
_CURRENCY = r"\\?[$\u20ac\u00a3\u00a5\u20b9\u20a9\u20bd\u0e3f\uff04\uffe5]"
# the bounds of 12 groups keep the time in proportion to the length
_NUMBER = re.compile(
    rf"(?P<sign>[{_MINUS}])?(?:{_CURRENCY}(?P<inner>[{_MINUS}])?)?"
    r"(?:(?P<points>\d{1,3}(?:\.\d{3}){2,12}(?![\d.]))(?:,(?P<cents>\d+))?"  # 1.234.567
    r"|(?P<point>\d{1,3}\.\d{3}),(?P<cent>\d{1,2})(?!\d)"  # 1.234,56
    rf"|(?P<whole>\d{{1,3}}(?P<group>{_GROUPS})\d{{3}}(?:(?P=group)\d{{3}})*(?!\d)|\d{{1,2}}(?:,\d{{2}}){{1,12}},\d{{3}}(?!\d)|\d+)"
    r"(?:\.(?P<decimals>\d+))?"
    r"|(?<![\w.])\.(?P<bare>\d+))"
    r"(?:[eE](?P<exponent>[-+]?\d{1,3})(?!\w))?"
)
_WIDE = str.maketrans({"\uff0c": ",", "\uff0e": ".", "\u066b": ".", "\u066c": ","})


def numbers(text: str) -> list[str]:
    """Every number of the text in order, as Decimal reads it: "-1234.5"."""
    plain = _in_ascii_digits(text).translate(_WIDE)
    return [_plain(match, plain[: match.start()][-1:]) for match in _NUMBER.finditer(plain)]


def _plain(match: re.Match[str], before: str) -> str:
    """`before`: the character before the match. "10-5" ends in 5, not in -5: a minus right after a number or a name is no sign."""
    signed = match["inner"] or (match["sign"] and not (before.isalnum() or before in tuple(")]}")))
    whole = re.sub(r"\D", "", match["points"] or match["point"] or match["whole"] or "0")
    decimals = match["cents"] or match["cent"] or match["decimals"] or match["bare"]
    number = f"{whole}.{decimals}" if decimals else whole
    exponent = f"e{match['exponent']}" if match["exponent"] else ""
    return f"{'-' if signed else ''}{number}{exponent}"


def _in_ascii_digits(text: str) -> str:
    return text if text.isascii() else "".join(str(unicodedata.decimal(c, c)) for c in text)
