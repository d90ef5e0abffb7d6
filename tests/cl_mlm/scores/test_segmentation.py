"""Words and folding of texts in many scripts."""

import pytest
from rouge_score.tokenize import tokenize

from cl_mlm.scores.segmentation import folded, spaced, words

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop: x_1 (2nd)", ["don", "t", "stop", "x", "1", "2nd"]),
        ("Привет, мир!", ["привет", "мир"]),
        ("Γειά σου", ["γειά", "σου"]),
        ("für Straße", ["für", "straße"]),
        ("مرحبا، بالعالم", ["مرحبا", "بالعالم"]),
        ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया"]),
        ("안녕 세상", ["안녕", "세상"]),
        ("我爱北京。2024年", ["我", "爱", "北", "京", "2024", "年"]),
        ("𠮷野家は GDP", ["𠮷", "野", "家", "は", "gdp"]),
        ("カー・々", ["カ", "ー", "々"]),
        ("ดีมั้ย", ["ดี", "มั้", "ย"]),
        ("ສະບາຍ", ["ສ", "ະ", "ບ", "າ", "ຍ"]),
        ("ខ្មែរ", ["ខ្", "មែ", "រ"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("ＡＢ　Ｃ", ["ab", "c"]),
        ("co\u00adoperate a\u200bb", ["cooperate", "a", "b"]),
        ("❤\ufe0f love", ["love"]),
        ("?!", ["?", "!"]),
        ("😀 👍", ["😀", "👍"]),
        (" ", []),
    ],
)
def test_words_of_a_script(text, expected):
    assert words(text) == [folded(word) for word in expected]


def test_words_of_ascii_text_are_those_of_rouge_score():
    for text in ("The cat's 2nd hat, isn't it? A_b-c", "x\ty\n\nz", "U.S. $25 (50%)"):
        assert words(text) == tokenize(text, None)


def test_an_accent_is_one_character_or_two():
    assert COMPOSED != DECOMPOSED
    assert folded(COMPOSED) == folded(DECOMPOSED)
    assert words(COMPOSED) == words(DECOMPOSED) == [COMPOSED]


def test_spaces_are_put_around_letters_of_scripts_without_spaces_only():
    assert spaced("ab cd") == "ab cd"
    assert spaced("für Elise") == "für Elise"
    assert spaced("iPhone手机ok").split() == ["iPhone", "手", "机", "ok"]
