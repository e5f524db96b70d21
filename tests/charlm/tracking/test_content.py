"""What a complete run contains that no test of the pipeline shows."""

import re
from pathlib import Path

import pytest

from charlm.tracking.content import _example, surprise_html


@pytest.mark.parametrize(
    ("text", "example"),
    [
        ("\n \n  Chapter 1\nIt was", "Chapter 1"),
        ("x" * 1000 + "\n", "x" * 40),
        (" " * 100 + "abc\n", "abc"),
        ("\n\n \n", "\n"),
    ],
)
def test_example_is_the_beginning_of_the_first_line_that_is_not_blank(tmp_path: Path, text: str, example: str) -> None:
    (tmp_path / "book.txt").write_text(text)
    assert _example(tmp_path / "book.txt") == example


def test_example_of_one_long_line_reads_only_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_bytes(b"a" * 100_000 + b"\xff")  # decoding all of it would fail
    assert _example(tmp_path / "book.txt") == "a" * 40


def test_surprise_page_has_the_text_and_its_bits(tmp_path: Path) -> None:
    (tmp_path / "surprise.csv").write_text("char,bits\n<,1.5\nspace,9.0\n\\n,0.25\n")
    page = surprise_html(tmp_path / "surprise.csv")
    spans = re.findall(
        r'<span title="([0-9.]+) bits" style="background:rgba\(214,39,40,([0-9.]+)\)">(.*?)</span>', page, re.DOTALL
    )
    assert spans == [("1.50", "0.19", "&lt;"), ("9.00", "1.00", " "), ("0.25", "0.03", "↵\n")]
