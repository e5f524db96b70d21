"""From a Project Gutenberg file to the book alone."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.errors import RefusedError
from charlm.text.boilerplate import has_marker, strip_boilerplate

BOOK = "  [Illustration: A CAT]\n\n\nTHE CAT\n\nShe sat. “Well,” said Zoë.\n\n   The End\n"

# What Project Gutenberg has set before and after a book in its time.
GENERATIONS = {
    "2023": (
        "The Project Gutenberg eBook of The Cat\n    \nThis ebook is for the use of anyone anywhere.\n\n"
        "Title: The Cat\n\nCredits: Produced by Ann\n\n\n"
        "*** START OF THE PROJECT GUTENBERG EBOOK THE CAT ***\n\n\n\n\nProduced by Ann and the Online Distributed\n"
        "Proofreading Team at http://www.pgdp.net\n\n\n    \n\n",
        "\n\n\n\nEnd of Project Gutenberg's The Cat, by A. Writer\n\n\n\n"
        "*** END OF THE PROJECT GUTENBERG EBOOK THE CAT ***\n\n    \n\nUpdated editions will replace the previous "
        "one\n\nSTART: FULL LICENSE\n\nTHE FULL PROJECT GUTENBERG LICENSE\nwww.gutenberg.org\n",
    ),
    "2024, by number": (
        "The Project Gutenberg eBook of The Cat\n\n*** START OF THE PROJECT GUTENBERG EBOOK 22566 ***\n\n",
        "\n*** END OF THE PROJECT GUTENBERG EBOOK 22566 ***\n",
    ),
    "2010": (
        "The Project Gutenberg EBook of The Cat, by A. Writer\n\nCharacter set encoding: ASCII\n\n"
        "  *** START OF THIS PROJECT GUTENBERG EBOOK THE CAT, A STORY WITH A LONG\n"
        "  TITLE FOR N*** ***  \n\n\n\n\n",
        "\n\nEnd of the Project Gutenberg EBook of The Cat, a Story with a Long\nTitle, by A. Writer\n\n"
        "  *** END OF THIS PROJECT GUTENBERG EBOOK THE CAT, A STORY WITH A LONG\n  TITLE FOR N*** ***\n\n"
        "***** This file should be named 22566.txt or 22566.zip *****\n\n*** START: FULL LICENSE ***\n",
    ),
    "2009, with no marker below": (
        "*** START OF THIS PROJECT GUTENBERG EBOOK THE CAT ***\n\n",
        "\n\n*** End of Project Gutenberg's The Cat, by A. Writer ***\n",
    ),
    "2006": (
        "The Project Gutenberg eBook, The Cat, by A. Writer\n\n\n"
        "***START OF THE PROJECT GUTENBERG EBOOK THE CAT***\n\n\nE-text prepared by Ann\n\n\n\n"
        "Note: Project Gutenberg also has an HTML version of this\n      file. See 22566-h.htm:\n"
        "      (https://www.gutenberg.org/files/22566/22566-h.htm)\n\n\n"
        "      Images of the original pages are available through\n      Internet Archive.\n\n\n\n\n",
        "\n\n\n***END OF THE PROJECT GUTENBERG EBOOK THE CAT***\n\n\n******* This file should be named 22566 *******\n",
    ),
    "2003": (
        "*** START OF THE PROJECT GUTENBERG EBOOK, THE CAT ***\n\n\n\n\nThis eBook was produced by Ann.\n\n",
        "\n\n*** END OF THE PROJECT GUTENBERG EBOOK, THE CAT ***\n\n"
        "[Portions of this eBook's header and trailer may be reprinted.]\n\n"
        "*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*\n",
    ),
    "1993": (
        "**The Project Gutenberg Etext of The Cat, by A. Writer**\n\n"
        "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\n\nSEND MONEY.\n\n"
        "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n\n\n\n",
        "\n\n\n\n\nEnd of The Project Gutenberg Etext of The Cat\n\n",
    ),
    "1994, with the title again": (
        "**The Project Gutenberg Etext of The Cat, by A. Writer**\n\n"
        "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n\n\n\n"
        "The Project Gutenberg Etext of The Cat, a Story with a Long\nTitle, by A. Writer\n\n"
        "This etext was prepared by Ann\n\n\n",
        "\n\n\n\n\nEnd of The Project Gutenberg Etext of The Cat\n\n",
    ),
    "1991, with the small print behind": (
        "***The Project Gutenberg Etext of The Cat***\n\n\n",
        "\n\nThe End of the Project Gutenberg Etext of The Cat\n\n\n"
        "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\n\nSEND MONEY.\n\n"
        "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\nThis is the last line.\n",
    ),
    "1992, with small print on both sides": (
        "**The Project Gutenberg Etext of The Cat, by A. Writer**\n\n"
        "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\n\nSEND MONEY.\n\n"
        "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n\n",
        "\n\nEnd of Project Gutenberg's The Cat\n\n\nSEND MORE.\n\n"
        "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n",
    ),
    "2001, with nothing below": (
        "The Project Gutenberg Etext of The Cat\n\n"
        "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.07.00*\nEND*\n\n\n"
        "This etext was scanned and proofread by Ann, ann@example.org\n\n",
        "",
    ),
    "2002, with no marker above": (
        "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.10.04.01*END*\n\n",
        "\n\n*** END OF THIS PROJECT GUTENBERG EBOOK THE CAT ***\n",
    ),
    "rebuilt around a newer file": (
        "*** START OF THE PROJECT GUTENBERG EBOOK THE CAT ***\n\nThe Project Gutenberg EBook of The Cat\n\n"
        "*** START OF THIS PROJECT GUTENBERG EBOOK THE CAT ***\n\n",
        "\n\n*** END OF THIS PROJECT GUTENBERG EBOOK THE CAT ***\n\n"
        "*** END OF THE PROJECT GUTENBERG EBOOK THE CAT ***\n",
    ),
    "rebuilt around an older file": (
        "The Project Gutenberg eBook of The Cat\n\n*** START OF THE PROJECT GUTENBERG EBOOK THE CAT ***\n\n"
        "The Project Gutenberg Etext of The Cat\n\n*** START OF THIS PROJECT GUTENBERG EBOOK THE CAT ***\n\n"
        "*END*THE SMALL PRINT! FOR COPYRIGHT PROTECTED ETEXTS*Ver.04.29.93*END*\n\n"
        "[Transcribed from the 1908 edition by Ann]\n\n",
        "\n\nEnd of this Project Gutenberg Etext of The Cat\n\n\nEnd of Project Gutenberg's The Cat\n\n"
        "*** END OF THIS PROJECT GUTENBERG EBOOK THE CAT ***\n\n*** END OF THE PROJECT GUTENBERG EBOOK THE CAT ***\n",
    ),
}

# Whitespace that str.splitlines takes for line ends is part of the book.
LINES = st.text(st.sampled_from("aZ*. \t\x0b\x0c\x1c\x85\xa0\u2028é”") | st.characters(exclude_categories=["Cs"]))
LINES = LINES.map(lambda line: line.translate({ord(end): None for end in "\r\n\0\ufeff"}))
FULL_LINES = LINES.filter(lambda line: bool(line.strip(" \t")))
BOOKS = st.builds(
    lambda first, lines, last: "\n".join([first, *lines, last]) + "\n",
    FULL_LINES,
    st.lists(LINES),
    FULL_LINES,
).filter(str.strip)  # nothing but blanks of any kind is no book


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_file_of_any_generation_is_recognised_and_leaves_the_book(generation: str) -> None:
    header, footer = GENERATIONS[generation]
    assert has_marker(header + BOOK + footer)
    assert strip_boilerplate(header + BOOK + footer) == BOOK


@given(BOOKS, st.sampled_from(sorted(GENERATIONS)))
def test_any_book_comes_out_of_any_file_as_it_went_in(text: str, generation: str) -> None:
    header, footer = GENERATIONS[generation]
    assert strip_boilerplate(header + text + footer) == text


@given(BOOKS)
def test_a_book_without_boilerplate_stays_as_it_is(text: str) -> None:
    assert not has_marker(text)
    assert strip_boilerplate(text) == text


def test_empty_lines_at_either_end_go_and_blanks_in_full_lines_stay() -> None:
    assert strip_boilerplate("\n \t\n\n  first  \n\n \nlast  \n  \n\n ") == "  first  \n\n \nlast  \n"


def test_credits_and_sign_offs_inside_the_book_stay() -> None:
    text = "One\n\nProduced by Ann\n\nEnd of Project Gutenberg's reign\n\n" + "Two\n" * 10
    assert strip_boilerplate("Zero\n" * 10 + text) == "Zero\n" * 10 + text


def test_a_small_print_deep_in_an_anthology_takes_nothing_away() -> None:
    anthology = "One\n" * 10_000 + "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n" + "Two\n" * 100
    header, footer = GENERATIONS["2010"]
    assert strip_boilerplate(header + anthology + footer) == anthology


def test_a_title_above_a_poem_takes_no_line_of_it() -> None:
    header = "The Project Gutenberg Etext of The Raven\n"
    poem = "Once upon a midnight dreary,\nwhile I pondered, weak and weary,\nOver many a volume\n"
    assert strip_boilerplate(header + poem) == poem


def test_many_sign_offs_in_the_middle_take_no_time() -> None:
    """The time doubled with every such line: each could be cut between two of the pattern's rounds."""
    text = "a\n" * 20 + "End of Project Gutenberg\n" * 200 + "\nand then the story goes on\n" * 20
    assert strip_boilerplate(text) == text


def test_ten_megabytes_of_stars_and_empty_lines_take_no_time() -> None:
    """The patterns are tried at every line: none may scan the rest of the text each time."""
    text = "a\n" + "   *   *   *\n\n \n" * 200_000 + "End of it all\n"
    assert strip_boilerplate(text) == text


@pytest.mark.parametrize(
    ("file", "found"),
    [
        (
            GENERATIONS["2010"][0] + BOOK,
            "it has a *** START OF line and no *** END OF, as when it was cut short",
        ),
        (BOOK + GENERATIONS["2010"][1], "it has an *** END OF line and no *** START OF"),
        (
            (GENERATIONS["2010"][0] + BOOK + GENERATIONS["2010"][1]) * 2,
            "a second *** START OF line follows the first *** END OF, as in two books joined",
        ),
        *(
            (
                book + GENERATIONS["1993"][1] + GENERATIONS["1993"][0] + "Once more\n" * 20 + GENERATIONS["1993"][1],
                "a small print follows a sign-off, and a book follows that, as in two books joined",
            )
            for book in (BOOK, GENERATIONS["1993"][0] + BOOK)
        ),
        (
            "*** START OF THE PROJECT GUTENBERG EBOOK\n\n" + BOOK,
            'boilerplate remains at the start of the book: "*** START OF THE PROJECT GUTENBERG EBOOK"',
        ),
        (
            GENERATIONS["1993"][0] + BOOK * 4 + "\nThis file comes from www.gutenberg.org.\n",
            'boilerplate remains at the end of the book: "This file comes from www.gutenberg.org."',
        ),
    ],
)
def test_a_damaged_file_is_refused(file: str, found: str) -> None:
    with pytest.raises(RefusedError) as refused:
        strip_boilerplate(file)
    assert refused.value.message == found


@pytest.mark.parametrize("inside", ["", "\n\n", " \x0b\n"])
def test_nothing_between_the_markers_is_refused(inside: str) -> None:
    header, footer = GENERATIONS["2024, by number"]
    with pytest.raises(RefusedError, match=r"^it contains nothing but Project Gutenberg's boilerplate$"):
        strip_boilerplate(header + inside + footer)


# The real books


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("number", "first", "last", "characters", "distinct", "sha256"),
    [
        (
            22566,
            "[Illustration: DOROTHY AND THE WIZARD]",
            "[Illustration]",
            232_411,
            80,
            "8e74cda23435d7e7ea953cdf23b8f722629f0a62c9ba767465d91a0c44cb5e19",
        ),
        (
            54,
            "The Marvelous",
            "The End",
            243_244,
            76,
            "d5404c6c5f7b745bdc845dc32b0e50220c042917f58a0933e4c5730c08b18c7a",
        ),
        (
            55,
            "The Wonderful Wizard of Oz",
            "And oh, Aunt Em!  I'm so glad to be at home again!\"",
            208_347,
            75,
            "d82284521615a4d0eb6cfd06d366b8c60a3927940922b743f04e009eb81bbca6",
        ),
    ],
)
def test_the_real_books_are_stripped_to_their_own_words_in_any_generation(
    mirror: Path, number: int, first: str, last: str, characters: int, distinct: int, sha256: str
) -> None:
    served = (mirror / f"cache/epub/{number}/pg{number}.txt").read_text(encoding="utf-8-sig")
    text = strip_boilerplate(served)
    assert (len(text), len(set(text))) == (characters, distinct)
    assert hashlib.sha256(text.encode()).hexdigest() == sha256
    lines = text.splitlines()
    assert (lines[0].strip(), lines[-1].strip()) == (first, last)
    for header, footer in GENERATIONS.values():
        assert strip_boilerplate(header + text + footer) == text
