"""Texts that tell tokenizers apart: how they cut words, digits, signs, blanks and scripts, and whether they compose letters."""

TEXTS = (
    "Hello, world! It's 3.14159 or 2,718,281,828; don't, DON'T, we'Ll, I'M, they'VE they're he'd.",
    " leading",
    "  two  blanks ",
    "trailing   ",
    "\ttabs\t\tand\n\nlines\r\n \n  \n\n\n   end \n",
    "\n",
    " ",
    "      ",
    "\n" * 12,
    "a" * 70,
    "ab" * 40,
    "=" * 40,
    "0 01 012 0123 01234 012345 0123456 x1234567890y 1a22b333c4444",
    "\u0663\u0664\u0665 \u096a\u096b \u00b2\u00b3 \u2167 \u00bd",  # digits and numbers of other scripts
    "camelCaseHTMLParser SHOUTING Titlecase \u01c5 snake_case kebab-case path/to/file.py",
    "a::b->c(d)[e]{f}<g> += != === ... --- ### $$ @@",
    "\u00c4\u00d6\u00dc \u00e4\u00f6\u00fc\u00df \u00e9\u00e8 e\u0301 o\u0308 \u1e9b\u0323 \ufb01 \u212b A\u030a nai\u0308ve \u0130 \u0131",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0393\u03b5\u03b9\u03ac",  # Russian, Greek
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",  # Hebrew, Arabic
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",  # with marks that combine
    "\u1019\u1004\u103a\u1039\u1002 \u10d2\u10d0",
    "\u4f60\u597d\u4e16\u754c\uff0c\u4eca\u5929\u3002\u6f22\u5b57a1\u6f22",  # Chinese
    "\u3053\u3093\u306b\u3061\u306f\u30ab\u30bf\u30ab\u30ca \uc548\ub155\ud558\uc138\uc694",  # Japanese, Korean
    "\U0001f600\U0001f44d\U0001f3fd \U0001f469\u200d\U0001f4bb \U0001f1e9\U0001f1ea \u2764\ufe0f",  # emoji of several characters
    "\u2026\u2014\u2013\u201cx\u201d\u2018y\u2019 \u20ac\u00a3\u00a5 \u2211\u221e\u2260",
    "a\u00a0b\u3000c\u2003d\u200be\ufefff \u2028g\u2029h \x85i \x0bj\x0ck \x00\x01\x7f\x80",  # rare blanks and control characters
    'def f(x):\n    if x > 0:\n\t\treturn x**2  # c\n    else:\n        raise ValueError(f"{x!r}")\n',
    "https://example.org/?q=1&r=%20#top me@x.org",
    "<0x0A> [PAD1] <|x|> <s></s> \u2581a\u2581\u2581b \u0120c \u010a",  # how vocabularies write bytes, blanks and special tokens
)
