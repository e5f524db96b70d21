"""Which encoding a text is in, by what names it and by its bytes."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.errors import RefusedError
from charlm.text.encoding import decide

ENGLISH = "“Well,” said Zoë, “it is a naïve café.”\n" * 5
GERMAN = "Über die große Straße fährt ein müder Bäcker, süß wie Öl und schön.\n" * 5
GREEK = "Άνδρα μοι έννεπε, Μούσα, πολύτροπον, ος μάλα πολλά πλάγχθη.\n" * 5
JAPANESE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で泣いていた。\n" * 5
)
RUSSIAN = (
    "Счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. Смешалось в доме "
    "Облонских. Жена узнала, что муж был в связи с бывшею в их доме француженкою, и объявила Стиве.\n"  # noqa: RUF001
)
HEADER = "The Project Gutenberg EBook of It\n\nCharacter set encoding: {}\n\n*** START OF …\n\n"


def decided(folder: Path, content: bytes, **named: Any) -> str:
    (folder / "a.txt").write_bytes(content)
    return str(decide(folder / "a.txt", **named))


def refused(folder: Path, content: bytes, **named: Any) -> str:
    with pytest.raises(RefusedError) as error:
        decided(folder, content, **named)
    return error.value.message


@pytest.mark.parametrize(
    ("text", "codec", "named", "found"),
    [
        # A mark, whatever else is said.
        (ENGLISH, "utf-8-sig", {"wanted": "cp1252", "declared": "cp1251"}, "utf-8"),
        (ENGLISH, "utf-16", {}, "utf-16"),
        ("\ufeff" + RUSSIAN, "utf-16-be", {}, "utf-16"),
        (JAPANESE, "utf-32", {"wanted": "cp932"}, "utf-32"),
        # data.encoding, whatever the server says.
        (ENGLISH, "cp1252", {"wanted": "Windows-1252"}, "cp1252"),
        (RUSSIAN, "koi8-r", {"wanted": "koi8-r", "declared": "utf-8"}, "koi8-r"),
        (RUSSIAN, "utf-16-le", {"wanted": "utf-16-le"}, "utf-16-le"),
        # The server.
        (RUSSIAN, "cp1251", {"declared": "windows-1251"}, "cp1251"),
        (ENGLISH, "cp1252", {"declared": "ISO-8859-1"}, "cp1252"),
        (RUSSIAN, "utf-16-le", {"declared": "UTF-16"}, "utf-16-le"),
        (JAPANESE, "iso2022_jp", {"declared": "iso-2022-jp"}, "iso2022_jp"),
        # A name that says nothing, or that nobody knows.
        (ENGLISH, "utf-8", {"declared": "us-ascii"}, "utf-8"),
        (ENGLISH, "utf-8", {"declared": "utf8mb4"}, "utf-8"),
        (ENGLISH, "utf-8", {"declared": "rot13"}, "utf-8"),
        # The bytes.
        (ENGLISH, "utf-8", {}, "utf-8"),
        ("plain\n", "ascii", {}, "utf-8"),
        (RUSSIAN, "cp1251", {}, "cp1251 (detected)"),
        (RUSSIAN, "koi8-r", {}, "koi8-r (detected)"),
        (RUSSIAN, "iso8859-5", {}, "iso8859-5 (detected)"),
        (RUSSIAN, "cp866", {}, "cp866 (detected)"),
        (JAPANESE, "shift_jis", {}, "cp932 (detected)"),
        (JAPANESE, "euc_jp", {}, "euc_jp (detected)"),
        # A header of Project Gutenberg's; its etexts are in Windows-1252 unless they read badly in it.
        (HEADER.format("ISO-8859-1")[:-4] + ENGLISH, "cp1252", {}, "cp1252"),
        (HEADER.format("ISO Latin-1")[:-4] + GERMAN, "latin-1", {}, "cp1252"),
        (HEADER.format("ISO-646-US (US-ASCII)")[:-4] + ENGLISH, "cp1252", {}, "cp1252 (detected)"),
        (HEADER.format("ASCII")[:-4] + RUSSIAN, "cp1251", {}, "cp1251 (detected)"),
        ("The Project Gutenberg Etext\n" + GERMAN, "latin-1", {}, "cp1252 (detected)"),
        (HEADER.format("ISO-8859-1") + ENGLISH, "utf-8", {}, "utf-8"),
    ],
)
@pytest.mark.parametrize("size", [1, 2**16])
def test_what_names_the_encoding_comes_first_then_the_bytes(
    tmp_path: Path, text: str, codec: str, named: dict[str, str], found: str, size: int
) -> None:
    """All that is not UTF-8 used to be Windows-1252, without a word."""
    assert decided(tmp_path, text.encode(codec), size=size, **named) == found


DAMAGED = (
    "is not UTF-8, but the rest is: the text is damaged or cut short. If it is not meant as UTF-8, set data.encoding"
)
CERTAIN = r"is not UTF-8, and no other encoding is certain \(it might be .*\): set data.encoding"


@pytest.mark.parametrize(
    ("content", "named", "message"),
    [
        # Nearly UTF-8: cut in a character, or with a stray byte.
        ((ENGLISH + "“").encode()[:-1], {}, rf"byte 255 \(0xe2\) {DAMAGED}"),
        ((ENGLISH + "“").encode()[:-2], {}, rf"byte 255 \(0xe2\) {DAMAGED}"),
        (b"a\xe9" + ENGLISH.encode(), {}, rf"byte 1 \(0xe9\) {DAMAGED}"),
        (JAPANESE.encode()[1:], {}, rf"byte 0 \(0x90\) {DAMAGED}"),
        (ENGLISH.encode() * 5000 + b"\x93" + ENGLISH.encode(), {}, rf"byte 1,275,000 \(0x93\) {DAMAGED}"),
        # Too little to be certain, or as clean in several.
        (b"caf\xc3", {}, rf"byte 3 \(0xc3\) {CERTAIN}"),
        (b"plain\n" * 9000 + b"caf\xe9\n", {}, rf"byte 54,003 \(0xe9\) {CERTAIN}"),
        (ENGLISH.encode("cp1252"), {}, rf"byte 0 \(0x93\) {CERTAIN}"),
        (GREEK.encode("cp1253"), {}, rf"byte 0 \(0xa2\) {CERTAIN}"),
        # Other than what names it.
        (b"caf\x8d", {"wanted": "cp1252"}, r"byte 3 \(0x8d\) is not cp1252, which data.encoding names"),
        (b"caf\xe9", {"declared": "utf-8"}, r"byte 3 \(0xe9\) is not utf-8, which Content-Type names"),
        (
            b"\xef\xbb\xbfcaf\xe9",
            {"wanted": "cp1252"},
            r"byte 6 \(0xe9\) is not utf-8, which its byte order mark names",
        ),
        ("\ufeffab".encode("utf-16-le")[:-1], {}, r"byte 4 \(0x62\) is not utf-16, which its byte order mark names"),
        (HEADER.format("Big5")[:-4].encode() + b"\xff", {}, r"byte 77 \(0xff\) is not big5, which its header names"),
        (
            GERMAN.encode(),
            {"declared": "ISO-8859-2"},
            "Content-Type names iso8859-2, but the text is valid UTF-8: set data.encoding to utf-8 or to iso8859-2",
        ),
        (b"PK\0", {"wanted": "cp1252"}, "byte 2 is NUL, as in .*"),
        ("\ufeffa\0".encode("utf-16-le"), {}, "byte 3 is NUL, as in .*"),
    ],
)
def test_an_encoding_that_is_not_certain_is_refused_with_the_byte(
    tmp_path: Path, content: bytes, named: dict[str, str], message: str
) -> None:
    assert re.fullmatch(message, found := refused(tmp_path, content, **named)), found


@given(st.text("aé”я🐈\n", min_size=20).filter(lambda text: not text.isascii()), st.data())
def test_utf_8_that_lost_a_byte_is_never_read_as_anything_else(
    tmp_path_factory: pytest.TempPathFactory, text: str, data: st.DataObject
) -> None:
    content = text.encode()
    high = [place for place, byte in enumerate(content) if byte > 127]
    lost = data.draw(st.sampled_from(high))
    refused(tmp_path_factory.mktemp("text"), content[:lost] + content[lost + 1 :])
