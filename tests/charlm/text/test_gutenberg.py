"""What an entry of data.source is, and where it is looked for."""

import pytest

from charlm.errors import RefusedError
from charlm.text.gutenberg import addresses, book_number, is_gutenberg, is_path


@pytest.mark.parametrize(
    "source",
    [
        "gutenberg:22566",
        "Gutenberg:22566",
        "https://www.gutenberg.org/ebooks/22566",
        "https://www.gutenberg.org/ebooks/22566/",
        "https://gutenberg.org/ebooks/22566",
        "http://www.gutenberg.org/ebooks/22566",
        "https://www.gutenberg.org/ebooks/22566.txt.utf-8",
        "https://www.gutenberg.org/ebooks/22566?msg=welcome_stranger#download",
    ],
)
def test_a_gutenberg_page_means_the_text_of_that_book_on_two_hosts(source: str) -> None:
    assert addresses(source) == [
        "https://www.gutenberg.org/cache/epub/22566/pg22566.txt",
        "https://gutenberg.pglaf.org/cache/epub/22566/pg22566.txt",
    ]
    assert is_gutenberg(source)


@pytest.mark.parametrize("mirror", ["https://mirror.example/pub", "https://mirror.example/pub/", "/a/folder", "there"])
def test_the_mirror_goes_first(mirror: str) -> None:
    path = "cache/epub/55/pg55.txt"
    assert addresses("gutenberg:55", mirror)[0] == f"{mirror.rstrip('/')}/{path}"
    assert addresses("gutenberg:55", mirror)[1:] == addresses("gutenberg:55")


def test_an_empty_mirror_is_none() -> None:
    assert addresses("gutenberg:55", "") == addresses("gutenberg:55")


@pytest.mark.parametrize(
    ("source", "theirs"),
    [
        ("https://www.gutenberg.org/files/22566/22566-0.txt", True),
        ("https://gutenberg.pglaf.org/2/2/5/6/22566/22566-0.txt", True),
        ("https://WWW.GUTENBERG.ORG/files/22566/22566-0.txt", True),
        ("https://www.gutenberg.org/ebooks/author/42", True),
        ("https://example.org/gutenberg.org/ebooks/22566", False),
        ("https://notgutenberg.org/ebooks/22566", False),
        ("https://gutenberg.org.example/ebooks/22566", False),
        ("http://example.org/a.txt", False),
        ("books/gutenberg.org.txt", False),
    ],
)
def test_any_other_source_is_its_own_address_even_with_a_mirror(source: str, theirs: object) -> None:
    assert book_number(source) is None
    assert addresses(source, "/a/folder") == [source]
    assert is_gutenberg(source) == theirs


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("", "'' is empty"),
        ("  ", "'  ' is empty"),
        ("ftp://example.org/a.txt", "ftp:// is not supported"),
        ("file:///a.txt", "file:// is not supported"),
        ("https:///a.txt", "the address names no host"),
        ("https://[::1/a.txt", "not a valid address: Invalid IPv6 URL"),
        ("http://example.org:99999/", "not a valid address: Port out of range 0-65535"),
        ("gutenberg:abc", "what follows gutenberg: is not the number of a book"),
        ("gutenberg:", "what follows gutenberg: is not the number of a book"),
        ("gutenberg:0", "what follows gutenberg: is not the number of a book"),
        ("~/a.txt", "~ is not expanded here: write out the path of the home folder"),
    ],
)
def test_an_unusable_source_is_refused(source: str, found: str) -> None:
    with pytest.raises(RefusedError) as refused:
        addresses(source)
    assert refused.value.found == (f"{source}: {found}" if source.strip() else found)


def test_only_what_is_on_this_machine_is_a_path() -> None:
    sources = [
        "a.txt",
        "/a b/c",
        "books/*.txt",
        "gutenberg:55",
        "Gutenberg:x",
        "https://example.org/a.txt",
        "ftp://a/b",
    ]
    assert [is_path(source) for source in sources] == [True] * 3 + [False] * 4
