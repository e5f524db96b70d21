"""Files that appear completely or not at all, and texts read block by block."""

import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.files import atomic_write, read_text, sha256, write_text


def tree(folder: Path) -> dict[str, str]:
    """Every file below `folder` with its text."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_is_replaced_when_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert tree(tmp_path) == {"a.txt": "new"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_that_is_never_completed_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(error):
        write()
    assert tree(tmp_path) == {"a.txt": "old"}
    assert list(tmp_path.iterdir()) == [path]


def test_the_folder_is_created(tmp_path: Path) -> None:
    write_text(tmp_path / "data/train/a.txt", "a")
    assert tree(tmp_path) == {"data/train/a.txt": "a"}


def test_a_file_has_the_usual_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "a")
    (tmp_path / "plain.txt").write_text("a")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


@pytest.mark.parametrize("text", ["", "a\r\nb\rc\n", "a\x85b\u2028c\x0b", "\ufeff“é”🐈", "\0"])
def test_text_is_written_as_it_is(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_bytes() == text.encode()


@given(
    st.text(st.sampled_from("a\r\né”🐈") | st.characters(exclude_categories=["Cs"])), st.integers(1, 9), st.booleans()
)
def test_text_is_read_unchanged_but_for_line_ends_wherever_blocks_end(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int, universal: object
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(text.encode())
    blocks = list(read_text(path, size, universal_newlines=bool(universal)))
    assert "".join(blocks) == (re.sub("\r\n|\r", "\n", text) if universal else text)
    assert max(map(len, blocks)) <= size + 1  # a CR is held back until the next character is known


def test_a_text_that_ends_within_a_character_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("é".encode()[:1])
    with pytest.raises(UnicodeDecodeError):
        list(read_text(tmp_path / "a.txt"))


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 5000])
def test_the_digest_is_that_of_all_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
