"""A finished run in words: for the terminal (`python -m charlm.summary`) and, in Markdown, for MLflow."""

import re
from collections.abc import Mapping

import click

from charlm.config import PARAMS_FILE, Params, load_params, project_root, short_source
from charlm.errors import escape_on_stdout
from charlm.results import Metrics, Results
from charlm.text.references import MAX_CHARACTERS

EXPLANATIONS = {
    "uniform": "test split: every character equally likely",
    "unigram": "test split: each character as often as in the train split",
    "bigram_counts": "test split: pairs as often as in the train split",
    "bigram_floor": "train split: the lowest loss of any bigram",
    "kneser_ney": "test split: up to six characters, smoothed; what a network has to beat",
}
"""What each reference of metrics.json means."""
NOT_COUNTED = f"kneser_ney: not counted for texts over {MAX_CHARACTERS // 10**6} million characters"
_SAMPLE_LINES, _SAMPLE_CHARACTERS = 10, 1000


def rows(metrics: Metrics) -> list[tuple[str, float, str]]:
    """Name, loss in nats per character and meaning: the model's two losses and the references, worst first."""
    model = [
        (f"{split} loss", metrics[split]["loss"], f"this model, whole {split} split") for split in ("train", "test")
    ]
    references = [(name, loss, EXPLANATIONS[name]) for name, loss in metrics["reference"].items()]
    return sorted(model + references, key=lambda row: -row[1])


def notes(references: Mapping[str, float]) -> str:
    """Why a reference is absent, as a paragraph; nothing if all are there."""
    return "" if "kneser_ney" in references else f"{NOT_COUNTED}\n\n"


def decoded(encodings: Mapping[str, int]) -> str:
    """Which encoding the texts had, and how many each if there are several; nothing if it is not known."""
    found = [f"{name} ({count})" if len(encodings) > 1 else name for name, count in encodings.items()]
    return f"Decoded from {', '.join(found)}.\n\n" if found else ""


def sample_lines(text: str) -> str:
    """The first lines of a sample that are not blank, and of long ones the beginning."""
    lines = "\n".join([line for line in text.split("\n") if line.strip()][:_SAMPLE_LINES])
    return lines if len(lines) <= _SAMPLE_CHARACTERS else f"{lines[:_SAMPLE_CHARACTERS]}…"


def markdown(results: Results, params: Params) -> str:
    """The description of a run: what was trained, on which text, and how well."""
    metrics = results.read_metrics()
    test = metrics["test"]
    sample = sample_lines(results.read_sample())
    fence = "`" * max([3, *(len(marks) + 1 for marks in re.findall("`+", sample))])
    table = "\n".join(f"| {name} | {loss:.4f} | {meaning} |" for name, loss, meaning in rows(metrics))
    return (
        f"**{params.model.name}** on {short_source(params.data.source)}: test loss **{test['loss']:.4f}** nats per "
        f"character ({test['bits_per_char']:.4f} bits, perplexity {test['perplexity']:.2f}).\n\n"
        f"| | nats per character | |\n|---|---|---|\n{table}\n\n{notes(metrics['reference'])}"
        f"{decoded(results.read_encodings())}"
        f"The beginning of samples/trained.txt:\n\n{fence}\n{sample}\n{fence}\n"
    )


@click.command()
def main() -> None:
    """Print the result under data/."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    escape_on_stdout()
    params, results = load_params(project_root() / PARAMS_FILE), Results(project_root() / "data")
    metrics = results.read_metrics()
    title = f"{params.model.name} on {short_source(params.data.source)}"
    table = Table("", "nats per character", "", title=escape(title))
    for name, loss, meaning in rows(metrics):
        table.add_row(name, f"{loss:.4f}", meaning, style="bold" if name == "test loss" else None)
    console = Console(highlight=False, emoji=False)
    console.print(table)
    console.print(notes(metrics["reference"]) + decoded(results.read_encodings()), end="")
    console.print(sample_lines(results.read_sample()), style="dim", markup=False)
    console.print(
        "\nFiles: data/, one folder a stage; the checkpoint is data/train/model.safetensors"
        "\nRuns:  . .venv/bin/activate, then `charlm ui`"
        "\nText:  `charlm generate`"
    )


if __name__ == "__main__":
    main()
