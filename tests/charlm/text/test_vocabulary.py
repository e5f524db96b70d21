"""Characters and their tokens, compared with the notebook's dictionary."""

import hashlib
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charlm.errors import CharlmError
from charlm.text.vocabulary import UnknownCharacterError, Vocabulary

SMALL = Vocabulary.from_texts(["a cab\n"])[0]


def notebook(text: str) -> tuple[list[str], torch.Tensor]:
    """The characters and the tokens of `text` as the notebook makes them."""
    chars = sorted(set(text))
    stoi = {c: i for i, c in enumerate(chars)}
    return chars, torch.tensor([stoi[c] for c in text], dtype=torch.long)


# Characters and tokens


@given(st.text())
def test_characters_and_tokens_are_the_notebooks(text: str) -> None:
    vocabulary = Vocabulary.from_texts([text])[0]
    chars, tokens = notebook(text)
    assert list(vocabulary.characters) == chars
    assert torch.equal(torch.from_numpy(vocabulary.encode(text).astype(np.int64)), tokens)


@given(st.text(), st.text())
def test_a_text_comes_back_from_its_tokens(text: str, more: str) -> None:
    vocabulary = Vocabulary.from_texts([text + more])[0]
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_a_kept_byte_order_mark_sorts_last_as_in_the_notebook() -> None:
    text = "\ufeffThe “Cat”\n"
    vocabulary = Vocabulary.from_texts([text])[0]
    assert vocabulary.characters == "\n CTaeht“”\ufeff" == "".join(notebook(text)[0])
    assert vocabulary.encode("\ufeff").tolist() == [len(vocabulary) - 1]


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1, np.uint8), (256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.uint32)],
)
def test_tokens_are_of_the_smallest_type_that_holds_them(size: int, dtype: type) -> None:
    code_points = chain(range(0xD800), range(0xE000, 0x110000))
    text = "".join(map(chr, islice(code_points, size)))
    tokens = Vocabulary.from_texts([text])[0].encode(text)
    assert tokens.dtype == dtype
    assert np.array_equal(tokens, np.arange(size))


@given(st.lists(st.text(st.sampled_from("a\n é”🐈字") | st.characters(exclude_categories=["Cs"]))))
def test_texts_in_blocks_give_the_vocabulary_and_the_length_of_all(texts: list[str]) -> None:
    text = "".join(texts)
    assert Vocabulary.from_texts(texts) == (Vocabulary.from_texts([text])[0], len(text))


@pytest.mark.parametrize("mixed", ["plain", "naïve “plain”"])
def test_a_long_text_is_encoded_as_a_short_one_is(mixed: str) -> None:
    text = (mixed + " and long\n") * 10_000  # more than two blocks, of ASCII or not
    vocabulary = Vocabulary.from_texts([text])[0]
    assert torch.equal(torch.from_numpy(vocabulary.encode(text).astype(np.int64)), notebook(text)[1])


@pytest.mark.parametrize("size", [255, 256, 257, 300])
def test_ascii_is_encoded_by_a_vocabulary_of_any_size(size: int) -> None:
    """With 256 characters no byte is left to mark those that are absent."""
    vocabulary = Vocabulary("".join(map(chr, range(32, 32 + size))))
    assert vocabulary.encode("~ a").tolist() == [94, 0, 65]
    with pytest.raises(UnknownCharacterError, match="U\\+000A, no name\\) at position 1 is not among"):
        vocabulary.encode("a\n")


@pytest.mark.parametrize("before", ["a", "é"])
def test_an_unknown_character_far_down_is_named_by_its_position_in_the_whole(before: str) -> None:
    with pytest.raises(UnknownCharacterError, match="at position 150000 is"):
        Vocabulary("aé").encode(before * 150_000 + "!" + before * 10 + "?")


def test_a_token_outside_the_vocabulary_is_an_error() -> None:
    with pytest.raises(IndexError):
        SMALL.decode(np.array([len(SMALL)]))


@pytest.mark.parametrize(
    ("text", "character"),
    [
        ("a bd!", "'d' (U+0064, LATIN SMALL LETTER D) at position 3"),  # beyond the largest character
        ("caß", "'ß' (U+00DF, LATIN SMALL LETTER SHARP S) at position 2"),
        ("🐈", "'🐈' (U+1F408, CAT) at position 0"),
        ("ab\t", r"'\t' (U+0009, no name) at position 2"),
        ("B", "'B' (U+0042, LATIN CAPITAL LETTER B) at position 0"),  # between two that are known
    ],
)
def test_the_first_unknown_character_is_named(text: str, character: str) -> None:
    with pytest.raises(UnknownCharacterError) as err:
        SMALL.encode(text)
    assert str(err.value) == (
        f"Character {character} is not among the 5 characters of the vocabulary.\n"
        "Remove it, or train on a text that contains it."
    )


def test_characters_out_of_order_are_refused() -> None:
    with pytest.raises(AssertionError, match="not sorted and distinct"):
        Vocabulary("ba")


# The file


def test_json_is_these_characters() -> None:
    content = '{\n"characters": [\n"\\n",\n"\\"",\n"a",\n"é"\n]\n}\n'
    assert Vocabulary.from_texts(['é"a\n'])[0].to_json() == content


@given(st.text())
def test_a_vocabulary_comes_back_from_its_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.json"
    path.write_text(Vocabulary.from_texts([text])[0].to_json(), encoding="utf-8")
    assert Vocabulary.load(path) == Vocabulary.from_texts([text])[0]


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"characters": ["a"',
        "[" + "1, " * 50 + "1]",
        '"characters"',
        "null",
        '{"chars": ["a"]}',
        '{"characters": "ab"}',
        '{"characters": {"a": 1}}',
        '{"characters": ["a", "bc"]}',
        '{"characters": ["a", ""]}',
        '{"characters": ["a", 2]}',
        '{"characters": ["b", "a"]}',
        '{"characters": ["a", "a"]}',
        r'{"characters": ["a", "\ud800"]}',
    ],
)
def test_a_file_without_a_vocabulary_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(content)
    with pytest.raises(CharlmError) as err:
        Vocabulary.load(path)
    assert str(err.value) == (
        f"{path} is not a vocabulary: it begins with {content[:40]!r}.\n"
        'Expected JSON of the form {"characters": ["a", "b"]}, sorted, each character once.\n'
        "Run `dvc repro prepare --force` to write it again."
    )


def test_the_digest_is_that_of_the_characters_in_utf_8() -> None:
    assert Vocabulary.from_texts(["éa"])[0].digest == hashlib.sha256(b"a\xc3\xa9").hexdigest()


@given(st.text(), st.text())
def test_digests_are_equal_where_the_characters_are(one: str, other: str) -> None:
    a, b = Vocabulary.from_texts([one])[0], Vocabulary.from_texts([other])[0]
    assert (a.digest == b.digest) == (set(one) == set(other))


# Names for pictures


def test_labels_can_be_read() -> None:
    vocabulary = Vocabulary.from_texts(["a\n \\é\xa0\u2028\ufeff\U000e0001"])[0]
    assert vocabulary.labels == [r"\n", "space", "\\", "a", r"\xa0", "é", r"\u2028", r"\ufeff", r"\U000e0001"]


@given(st.text(st.sampled_from("\n\t\\nt space\x85\u2028") | st.characters(exclude_categories=["Cs"])))
def test_no_two_labels_are_the_same_and_each_can_be_printed(text: str) -> None:
    labels = Vocabulary.from_texts([text])[0].labels
    assert len(set(labels)) == len(labels) == len(set(text))
    assert all(label.isprintable() for label in labels)
