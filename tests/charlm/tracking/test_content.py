"""What a complete run contains that no test of the pipeline shows."""

from pathlib import Path

import pytest

from charlm.tracking.content import _example


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
