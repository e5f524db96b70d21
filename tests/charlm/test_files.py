"""Files that appear whole or not at all."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.files import atomic_write, read_text, sha256, write_text


def tree(folder: Path) -> dict[str, str]:
    """Every file below `folder` with its text."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert tree(tmp_path) == {"a.txt": "new"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_that_does_not_become_whole_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
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


def test_the_folder_is_made(tmp_path: Path) -> None:
    write_text(tmp_path / "data/train/a.txt", "a")
    assert tree(tmp_path) == {"data/train/a.txt": "a"}


def test_others_may_read_a_file_as_they_may_any_other(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "a")
    (tmp_path / "plain.txt").write_text("a")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


@pytest.mark.parametrize("text", ["", "a\r\nb\rc\n", "a\x85b\u2028c\x0b", "\ufeff“é”🐈", "\0"])
def test_text_is_written_as_it_is(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_bytes() == text.encode()


@given(st.text(st.sampled_from("a\r\né”🐈") | st.characters(exclude_categories=["Cs"])), st.integers(1, 9))
def test_text_is_read_as_it_is_wherever_blocks_end(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(text.encode())
    blocks = list(read_text(path, size))
    assert "".join(blocks) == text
    assert max(map(len, blocks)) <= size


def test_a_text_that_ends_within_a_character_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("é".encode()[:1])
    with pytest.raises(UnicodeDecodeError):
        list(read_text(tmp_path / "a.txt"))


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 5000])
def test_the_digest_is_that_of_all_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
