"""A finished run in words: for the terminal (`python -m charlm.summary`) and, in Markdown, for MLflow."""

from collections.abc import Mapping
from typing import Any

from charlm.config import load_params, project_root, short_source
from charlm.results import Results

EXPLANATIONS = {
    "uniform": "every character equally likely",
    "unigram": "how often each character stands in the train split",
    "bigram_counts": "counted pairs of the train split",
    "bigram_floor": "no bigram's train loss can go below",
    "kneser_ney": "counts of up to six characters, smoothed: what a network has to beat",
}
"""What each reference of metrics.json stands for."""
_SAMPLE_LINES = 10


def rows(metrics: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float, str]]:
    """Name, loss in nats per character and meaning: the model's two losses and the references, worst first."""
    model = [
        (f"{split} loss", metrics[split]["loss"], f"this model, whole {split} split") for split in ("train", "test")
    ]
    references = [(name, loss, EXPLANATIONS[name]) for name, loss in metrics["reference"].items()]
    return sorted(model + references, key=lambda row: -row[1])


def sample_lines(text: str) -> str:
    """The first lines of a sample that hold anything."""
    return "\n".join([line for line in text.split("\n") if line.strip()][:_SAMPLE_LINES])


def markdown(results: Results, params: Mapping[str, Any]) -> str:
    """The description of a run: what was trained, on which text, and how well."""
    metrics = results.read_metrics()
    table = "\n".join(f"| {name} | {loss:.4f} | {meaning} |" for name, loss, meaning in rows(metrics))
    test, source = (
        metrics["test"],
        short_source(params["data.source"] if isinstance(params["data.source"], list) else [params["data.source"]]),
    )
    return (
        f"**{params['model.name']}** on {source}: test loss **{test['loss']:.4f}** nats per character "
        f"({test['bits_per_char']:.4f} bits, perplexity {test['perplexity']:.2f}).\n\n"
        f"| | nats per character | |\n|---|---|---|\n{table}\n\n"
        "The beginning of samples/trained.txt:\n\n"
        f"```\n{sample_lines(results.samples[1].read_text(encoding='utf-8'))}\n```\n"
    )


def main() -> None:
    """Print the result that stands below data/."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    params = load_params(project_root() / "params.yaml")
    results = Results(project_root() / "data")
    console = Console(highlight=False, emoji=False)
    table = Table(
        "", "nats per character", "", title=escape(f"{params.model.name} on {short_source(params.data.source)}")
    )
    for name, loss, meaning in rows(results.read_metrics()):
        table.add_row(name, f"{loss:.4f}", meaning, style="bold" if name == "test loss" else None)
    console.print(table)
    console.print(sample_lines(results.samples[1].read_text(encoding="utf-8")), style="dim", markup=False)
    console.print(
        "\nFiles: data/, one folder a stage; the checkpoint is data/train/model.safetensors"
        "\nRuns:  . .venv/bin/activate, then `charlm ui`"
        "\nText:  `charlm generate 'Dorothy '`"
    )


if __name__ == "__main__":
    main()
