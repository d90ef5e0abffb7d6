"""Which texts count as equal, and what counts as a word, in any script.

Most scripts put spaces between words. Chinese, Japanese, Thai and some others do not: there every character counts as a
word, as in the evaluation of MLQA. Lewis et al. (2020), MLQA: Evaluating Cross-lingual Extractive Question Answering,
arXiv:1910.07475. Differs from it: the script decides, not the language, and more scripts than the Chinese one count.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

# The first words of the Unicode names of their letters.
WITHOUT_SPACES = frozenset(
    {"CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "YI", "THAI", "LAO", "KHMER", "MYANMAR"}
    | {"TIBETAN", "TAI", "JAVANESE", "BALINESE"}
)
# Chinese characters that are newer than the Unicode tables of Python have no name there.
IDEOGRAPHIC_PLANES = range(0x20000, 0x40000)
ZERO_WIDTH_SPACE = "\u200b"
ASCII_WORD = re.compile("[a-z0-9]+")


def folded(text: str) -> str:
    """Returns the text in NFKC, with one space in place of every run of white space, and none around it."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def spaced(text: str) -> str:
    """Returns the text with spaces around every letter of a script without spaces; its accents stay with it."""
    if text.isascii():
        return text
    pieces = []
    is_after = False
    for character in text:
        if unicodedata.category(character)[0] == "M":
            pieces.append(character)
            continue
        stands_alone = is_word_itself(character)
        pieces.append(f" {character}" if stands_alone or is_after else character)
        is_after = stands_alone
    return "".join(pieces)


def words(text: str) -> list[str]:
    """Returns the words of a text in NFKC and lower case: runs of letters, accents and digits, without punctuation.

    A letter of a script without spaces is a word. Text without a letter or digit, such as `?!`, is taken by character.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    found = ASCII_WORD.findall(text) if text.isascii() else spaced(_without_punctuation(text)).split()
    return found or list("".join(text.split()))


@cache
def is_word_itself(character: str) -> bool:
    """Says whether a character is a letter of a script that puts no spaces between words."""
    if ord(character) in IDEOGRAPHIC_PLANES:
        return True
    is_letter = unicodedata.category(character)[0] == "L" or unicodedata.category(character) == "Nl"
    return is_letter and unicodedata.name(character, "").partition(" ")[0] in WITHOUT_SPACES


def _without_punctuation(text: str) -> str:
    """Returns the text with a space for all but letters, accents and digits; invisible joiners are left out."""
    kept: list[str] = []
    is_in_word = False
    for character in text:
        kind = unicodedata.category(character)
        if kind == "Cf" and character != ZERO_WIDTH_SPACE:
            continue
        # An accent that follows no letter, such as the selector of an emoji, belongs to no word.
        is_in_word = kind[0] in "LN" or (kind[0] == "M" and is_in_word) or ord(character) in IDEOGRAPHIC_PLANES
        kept.append(character if is_in_word else " ")
    return "".join(kept)
