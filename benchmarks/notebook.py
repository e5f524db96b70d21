"""The notebook as a script, with its own methods: the baseline of the pipeline.

It encodes with dictionaries, stacks slices one by one to a batch, trains with PyTorch's default AdamW in float32, and
sends the whole text through the model for each character that it generates. The notebook has `eval_iters` but no
`estimate_loss`; here it has nanoGPT's. --mlflow adds what people usually log: parameters, a loss every 100 iterations
and the texts.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 the name that PyTorch's own documentation gives it

BLOCK_SIZE = 8
BATCH_SIZE = 4
MAX_ITERS = 1000
LEARNING_RATE = 3e-4
EVAL_ITERS = 500
NEW_TOKENS = 500
LOG_INTERVAL = 100

Log = Callable[[int, float], object]


class BigramLanguageModel(nn.Module):
    """A table of logits as in `charlm.models.bigram`, with PyTorch's own initial weights."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.token_embedding_table = nn.Embedding(vocabulary_size, vocabulary_size)

    def forward(self, index: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits, (B, T, V) or with `targets` (B * T, V), and the loss if there are any."""
        logits = self.token_embedding_table(index)  # (B, T, V)
        if targets is None:
            return logits, None
        batch, block, size = logits.shape
        logits = logits.view(batch * block, size)
        return logits, F.cross_entropy(logits, targets.view(batch * block))

    def generate(self, index: Tensor, max_new_tokens: int) -> Tensor:
        """Continue `index` (B, T). Every step computes the logits of the whole text so far."""
        for _ in range(max_new_tokens):
            logits, _ = self(index)
            logits = logits[:, -1, :]  # (B, V)
            probabilities = F.softmax(logits, dim=-1)
            index_next = torch.multinomial(probabilities, num_samples=1)  # (B, 1)
            index = torch.cat((index, index_next), dim=1)
        return index


def dictionaries(text: str) -> tuple[dict[str, int], dict[int, str]]:
    """string_to_int and int_to_string."""
    characters = sorted(set(text))
    return dict(zip(characters, range(len(characters)), strict=True)), dict(enumerate(characters))


def encode(text: str, string_to_int: Mapping[str, int]) -> Tensor:
    """The tokens of `text` as int64, (N,)."""
    return torch.tensor([string_to_int[c] for c in text], dtype=torch.long)


def get_batch(data: Tensor, batch_size: int, block_size: int) -> tuple[Tensor, Tensor]:
    """Random windows of `data` (N,) and the same one character later, both (B, T)."""
    ix = torch.randint(len(data) - block_size, (batch_size,))
    x = torch.stack([data[i : i + block_size] for i in ix])
    y = torch.stack([data[i + 1 : i + block_size + 1] for i in ix])
    return x, y


def train(
    model: BigramLanguageModel,
    data: Tensor,
    max_iters: int = MAX_ITERS,
    *,
    batch_size: int = BATCH_SIZE,
    block_size: int = BLOCK_SIZE,
    log: Log | None = None,
) -> tuple[float, float]:
    """Train in place. Returns the loss of the last batch, and the seconds per iteration."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    start = time.perf_counter()
    for step in range(max_iters):
        xb, yb = get_batch(data, batch_size, block_size)
        _, loss = model(xb, yb)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if log is not None and (step + 1) % LOG_INTERVAL == 0:
            log(step + 1, loss.item())
    return loss.item(), (time.perf_counter() - start) / max_iters


@torch.no_grad()
def estimate_loss(model: BigramLanguageModel, splits: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean loss of EVAL_ITERS batches of each split."""
    out = {}
    model.eval()
    for split, data in splits.items():
        losses = torch.zeros(EVAL_ITERS)
        for k in range(EVAL_ITERS):
            _, loss = model(*get_batch(data, BATCH_SIZE, BLOCK_SIZE))
            losses[k] = loss.item()
        out[split] = losses.mean().item()
    model.train()
    return out


def notebook(text: str, max_iters: int = MAX_ITERS, log: Log | None = None) -> tuple[float, dict[str, str]]:
    """Run the notebook: the loss of its last batch, and its two texts."""
    string_to_int, int_to_string = dictionaries(text)
    data = encode(text, string_to_int)
    train_data = data[: int(0.8 * len(data))]
    model = BigramLanguageModel(len(string_to_int))

    def generated() -> str:
        context = torch.zeros((1, 1), dtype=torch.long)
        return "".join(int_to_string[i] for i in model.generate(context, NEW_TOKENS)[0].tolist())

    untrained = generated()
    loss, _ = train(model, train_data, max_iters, log=log)
    return loss, {"untrained.txt": untrained, "trained.txt": generated()}


@click.command(help=__doc__)
@click.argument("text", type=click.Path(exists=True, path_type=Path))
@click.option("--mlflow", "store", type=click.Path(path_type=Path), help="An MLflow database to log to.")
def main(text: Path, store: Path | None) -> None:
    content = text.read_text(encoding="utf-8")
    loss, texts = notebook(content) if store is None else _logged(content, store)
    click.echo(texts["untrained.txt"])
    click.echo(loss)
    click.echo(texts["trained.txt"])


def _logged(content: str, store: Path) -> tuple[float, dict[str, str]]:
    """Run the notebook inside an MLflow run."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{store}")
    if mlflow.get_experiment_by_name("notebook") is None:
        mlflow.create_experiment("notebook", artifact_location=(store.parent / "artifacts").as_uri())
    mlflow.set_experiment("notebook")
    with mlflow.start_run():
        mlflow.log_params({"block_size": BLOCK_SIZE, "batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE})
        loss, texts = notebook(content, log=lambda step, value: mlflow.log_metric("loss", value, step=step))
        for name, generated in texts.items():
            mlflow.log_text(generated, name)
    return loss, texts


if __name__ == "__main__":
    main()
