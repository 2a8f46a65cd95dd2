"""The characters of a tiny policy: which the data have, and which of a text are not among them."""

import pytest

from tasks.gdsd.domains.alphabet import ALPHABET, LARGEST, lacking, of_texts
from tasks.gdsd.errors import DataError


def test_the_plain_alphabet_stays_as_it_is() -> None:
    """If it fails, every seed of the default experiment gives other weights, and stored policies other texts."""
    assert ALPHABET == "0123456789+-*/()=., :|abcdefghijklmnopqrstuvwxyz"


def test_an_alphabet_has_each_character_once_as_it_stands_and_in_one_order() -> None:
    """If it fails, the same problems in another order give another policy, or an accent becomes another character."""
    texts = ["stra\u00dfe", "e\u0301 is not \u00e9", "", "\u6f22\n\u5b57", "\U0001f600"]
    alphabet = of_texts(texts)
    assert alphabet == of_texts(reversed(texts)) == "\n aeinorst\u00df\u00e9\u0301\u5b57\u6f22\U0001f600"


def test_an_alphabet_has_a_largest_size() -> None:
    """If it fails, a file of noise makes a tiny policy of gigabytes."""
    characters = [chr(0x20000 + place) for place in range(LARGEST + 1)]
    assert len(of_texts(characters[:-1])) == LARGEST
    with pytest.raises(DataError, match=f"have {LARGEST + 1} different characters, but .* at most {LARGEST}; name a"):
        of_texts(characters)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 + 1", None),
        ("", None),
        ("die stra\u00dfe", "'\u00df' (U+00DF LATIN SMALL LETTER SHARP S), near 'die stra\u00dfe'"),
        ("caf" + "e\u0301", "'\u0301' (U+0301 COMBINING ACUTE ACCENT), near 'cafe\u0301'"),
        ("a" * 40 + "\nb", f"'\\n' (U+000A), near '{'a' * 12}\\nb'"),
        ("A1B2A", "'A' (U+0041 LATIN CAPITAL LETTER A), 'B' (U+0042 LATIN CAPITAL LETTER B), near 'A1B2A'"),
        ("\ue000", "'\\ue000' (U+E000), near '\\ue000'"),
    ],
)
def test_characters_that_are_not_known_are_named(text: str, said: str | None) -> None:
    """If it fails, a user searches a file for a character that looks like another one, or that nobody can see."""
    assert lacking(text, ALPHABET) == said


def test_of_many_characters_some_are_named() -> None:
    """If it fails, a message about Chinese problems fills the screen."""
    said = lacking("ABCDEFGH", ALPHABET)
    assert said is not None and said.count("LATIN") == 3 and " and 5 more, near 'ABCDEFGH'" in said
