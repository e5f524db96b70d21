"""The figures of a run: the data in them, and that they can be drawn."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure

from charlm.evaluation import next_char_rows
from charlm.summary import EXPLANATIONS
from charlm.text.corpus import Split
from charlm.text.vocabulary import Vocabulary
from charlm.tracking import figures
from charlm.training.history import Point
from tests.models_for_tests import table

POINTS = [Point(0, 4.8, 4.9, None), Point(100, 4.7, 4.75, 4.6), Point(150, 4.5, 4.55, 4.4)]
REFERENCES = {
    "uniform": 4.382027,
    "unigram": 3.144907,
    "bigram_counts": 2.483704,
    "bigram_floor": 2.419766,
    "kneser_ney": 1.457127,
}


def is_drawn(figure: Figure) -> bool:
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue().startswith(b"\x89PNG")


@pytest.mark.parametrize("absent", [set(), {"kneser_ney"}], ids=["all references", "a long text"])
def test_loss_of_both_splits_is_drawn_over_the_references(absent: set[str]) -> None:
    shown = {name: loss for name, loss in REFERENCES.items() if name not in absent}
    figure = figures.loss(POINTS, shown)
    (axes,) = figure.axes
    train, test, *references = axes.lines
    curves = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in (train, test)}
    assert curves == {"train": ([0, 100, 150], [4.8, 4.7, 4.5]), "test": ([0, 100, 150], [4.9, 4.75, 4.55])}
    assert [list(line.get_ydata()) for line in references] == [[loss, loss] for loss in shown.values()]
    assert [text.get_text() for text in axes.texts] == [f"{name} {loss:.4f}" for name, loss in shown.items()]
    heights = [text.get_position()[1] for text in axes.texts]
    assert heights == pytest.approx(list(shown.values()), abs=0.2)
    assert np.diff(sorted(heights)).min() > 0.1  # so that no label covers another
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["train", "test"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("iterations", "loss (nats per character)")
    assert is_drawn(figure)


def test_loss_can_be_drawn_of_one_point() -> None:
    assert is_drawn(figures.loss(POINTS[:1], REFERENCES))


def test_every_reference_has_its_line_style() -> None:
    assert figures.REFERENCE_STYLES.keys() == EXPLANATIONS.keys()
    assert len(set(figures.REFERENCE_STYLES.values())) == len(EXPLANATIONS)


def next_char_figure(text: str) -> tuple[Figure, list[str]]:
    """The figure of an untrained bigram, and the labels of the characters of `text`."""
    vocabulary = Vocabulary.from_texts([text])[0]
    split = Split("train", vocabulary.encode(text), len(vocabulary))
    rows = next_char_rows(table(len(vocabulary)), split, vocabulary.labels)
    return figures.next_char([str(cell) for cell in row] for row in rows), vocabulary.labels


@pytest.mark.parametrize("text", ["\n $_\\^{}%&#,\"'", "ab", "\t\x85\u2028é“”"])
def test_next_characters_are_a_matrix_under_their_labels(text: str) -> None:
    figure, labels = next_char_figure(text)
    axes = figure.axes[0]
    expected = table(len(labels)).next_char_probabilities(np.arange(len(labels))[:, None])
    order = [labels.index(label.get_text()) for label in axes.get_yticklabels()]
    assert sorted(order) == list(range(len(labels)))
    assert [label.get_text() for label in axes.get_xticklabels()] == [labels[index] for index in order]
    assert np.asarray(axes.images[0].get_array()) == pytest.approx(expected[order][:, order], abs=0.6e-6)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("next character", "character")
    assert is_drawn(figure)


def test_next_characters_of_a_large_vocabulary_fit_in_a_figure() -> None:
    """It used to grow with the vocabulary: 5,000 characters would have taken 26 GB."""
    figure, _ = next_char_figure("".join(map(chr, range(0x4E00, 0x4E00 + 300))))
    assert max(figure.get_size_inches()) < 20
    assert np.asarray(figure.axes[0].images[0].get_array()).shape == (100, 100)


def test_loss_by_context_is_drawn_as_it_is() -> None:
    (axes,) = figures.context([("characters_seen", "loss"), ("1", "2.5"), ("2", "2.0")]).axes
    (line,) = axes.lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 2], [2.5, 2.0])


def test_surprise_is_the_text_on_its_bits() -> None:
    rows = [("char", "bits"), *[("space", "1.5"), ("\\n", "7.25"), ("$", "0.5")] * 30]
    figure = figures.surprise(rows)
    axes = figure.axes[0]
    assert "".join(text.get_text() for text in axes.texts) == " ↵$" * 30
    bits = np.asarray(axes.images[0].get_array())
    assert bits.shape == (2, 60)
    assert bits[1, :3].tolist() == [1.5, 7.25, 0.5]
    assert is_drawn(figure)
