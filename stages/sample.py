"""Draw text from the model as it was initialised and as it was trained."""

from pathlib import Path

from charlm.config import load_params
from charlm.files import write_text
from charlm.models import checkpoint
from charlm.models.sampling import sample
from charlm.random import generator
from charlm.text.vocabulary import Vocabulary
from stages import stage


@stage
def main(prepare: Path, train: Path, out: Path) -> None:
    params = load_params()
    vocabulary = Vocabulary.load(prepare / "vocabulary.json")
    path = train / "model.safetensors"
    models = {
        "untrained": checkpoint.load_untrained(path, vocabulary, generator(params.train.seed, "weights")),
        "trained": checkpoint.load(path, vocabulary),
    }
    for name, model in models.items():
        write_text(out / f"{name}.txt", sample(model, vocabulary, **params.sample.model_dump()))


if __name__ == "__main__":
    main()
