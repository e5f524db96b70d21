"""Draw text from the model as it was initialised and as it was trained."""

from pathlib import Path

import click

from charlm import sources
from charlm.config import load_params
from charlm.files import write_text
from charlm.models.bigram import MODELS
from charlm.models.checkpoint import load_checkpoint
from charlm.models.sampling import sample
from charlm.random import seeded_generator
from charlm.text.vocabulary import Vocabulary


@click.command(help=__doc__)
@click.argument("prepare", type=click.Path(path_type=Path))
@click.argument("train", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(prepare: Path, train: Path, out: Path) -> None:
    code = sources.digests()
    params = load_params()
    vocabulary = Vocabulary.load(prepare / "vocabulary.json")
    weights = seeded_generator(params.train.seed, "weights")
    models = {
        "untrained": MODELS[params.model.name](len(vocabulary), generator=weights),
        "trained": load_checkpoint(train / "model.safetensors", vocabulary),
    }
    for name, model in models.items():
        write_text(out / f"{name}.txt", sample(model, vocabulary, **params.sample.model_dump()))
    sources.require_unchanged(code)


if __name__ == "__main__":
    main()
