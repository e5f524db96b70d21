"""The pictures of a run: the data in them, and that they can be drawn."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.figure import Figure

from charlm.evaluation import next_char_rows
from charlm.models.bigram import BigramLanguageModel
from charlm.random import seeded_generator
from charlm.summary import EXPLANATIONS
from charlm.text.vocabulary import Vocabulary
from charlm.tracking import figures as plots
from charlm.training.history import Point

POINTS = [Point(0, 4.8, 4.9, None), Point(100, 4.7, 4.75, 4.6), Point(150, 4.5, 4.55, 4.4)]
REFERENCES = {"uniform": 4.382027, "unigram": 3.144907, "bigram_counts": 2.483704, "bigram_floor": 2.419766}


def drawn(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def test_the_loss_of_both_splits_is_drawn_over_the_references() -> None:
    (axes,) = plots.loss(POINTS, REFERENCES).axes
    train, test, *references = axes.lines
    curves = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in (train, test)}
    assert curves == {"train": ([0, 100, 150], [4.8, 4.7, 4.5]), "test": ([0, 100, 150], [4.9, 4.75, 4.55])}
    assert [list(line.get_ydata()) for line in references] == [[loss, loss] for loss in REFERENCES.values()]
    assert len({line.get_linestyle() for line in references}) == 4
    assert [(text.get_text(), text.xy[1]) for text in axes.texts] == [
        ("uniform 4.3820", 4.382027),
        ("unigram 3.1449", 3.144907),
        ("bigram_counts 2.4837", 2.483704),
        ("bigram_floor 2.4198", 2.419766),
    ]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["train", "test"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("iterations", "loss (nats per character)")


def test_every_reference_has_a_line_style_of_its_own() -> None:
    assert plots.REFERENCE_STYLES.keys() == EXPLANATIONS.keys()


@pytest.mark.parametrize("points", [POINTS, POINTS[:1]])
def test_the_loss_can_be_drawn(points: list[Point]) -> None:
    assert drawn(plots.loss(points, REFERENCES)).startswith(b"\x89PNG")


def next_char_figure(model: BigramLanguageModel, labels: Sequence[str]) -> Figure:
    counts = np.ones((len(labels), len(labels)), dtype=np.int64)
    return plots.next_char([str(cell) for cell in row] for row in next_char_rows(model, counts, labels))


def test_next_characters_of_a_large_vocabulary_fit_a_picture() -> None:
    """It used to grow by the vocabulary: 5,000 characters would have taken 26 GB."""
    size = 300
    figure = next_char_figure(BigramLanguageModel(size), [str(number) for number in range(size)])
    assert figure.get_size_inches().tolist() == [40, 40]
    axes = figure.axes[0]
    assert np.asarray(axes.images[0].get_array()).shape == (size, size)
    assert len(axes.get_xticks()) < 20


@pytest.mark.parametrize("text", ["\n $_\\^{}%&#,\"'", "ab", "\t\x85\u2028é“”"])
def test_next_characters_are_a_matrix_under_their_labels(text: str) -> None:
    vocabulary = Vocabulary.from_text(text)
    size = len(vocabulary)
    model = BigramLanguageModel(size, generator=seeded_generator(1, "weights"))
    figure = next_char_figure(model, vocabulary.labels)
    axes = figure.axes[0]
    shown = axes.images[0].get_array()
    assert np.asarray(shown) == pytest.approx(model.next_char_probabilities().numpy(), abs=0.6e-6)
    assert [label.get_text() for label in axes.get_yticklabels()] == vocabulary.labels
    assert [label.get_text() for label in axes.get_xticklabels()] == vocabulary.labels
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("next character", "character")
    assert drawn(figure).startswith(b"\x89PNG")
