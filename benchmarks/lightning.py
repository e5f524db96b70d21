"""The notebook's training as PyTorch Lightning does it, its loss logged to MLflow by MLFlowLogger.

`make bench` installs Lightning; so does `pip install 'charlm[bench]'`. Progress bar, checkpoints and summaries are off,
which is to its advantage.
"""

import logging
import os
import time
import warnings
from collections.abc import Iterator

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from benchmarks import notebook


class Windows(IterableDataset[tuple[Tensor, Tensor]]):
    """Random windows of a text (T,) and the same one character later, without end."""

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw one window at a time; the loader stacks them to batches."""
        while True:
            start = int(torch.randint(len(self.data) - notebook.BLOCK_SIZE, ()))
            window = self.data[start : start + notebook.BLOCK_SIZE + 1]
            yield window[:-1], window[1:]


class Bigram(LightningModule):
    """The notebook's model, with the seconds that its training took without set-up and teardown."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.model = notebook.BigramLanguageModel(vocabulary_size)
        self.seconds = 0.0

    def on_train_start(self) -> None:
        """Start the clock."""
        self.seconds = -time.perf_counter()

    def on_train_end(self) -> None:
        """Stop it."""
        self.seconds += time.perf_counter()

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of a batch, which is logged."""
        loss: Tensor = self.model(*batch)[1]
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer of the notebook."""
        return torch.optim.AdamW(self.parameters(), lr=notebook.LEARNING_RATE)


def train(data: Tensor, vocabulary_size: int, max_iters: int, uri: str) -> float:
    """Seconds an iteration at the notebook's settings, a loss logged every 100 to the MLflow store `uri`."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    model = Bigram(vocabulary_size)
    loader = DataLoader(Windows(data), batch_size=notebook.BATCH_SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it suggests workers, which are slower for four windows
        trainer = Trainer(
            accelerator="cpu",
            max_steps=max_iters,
            logger=MLFlowLogger("lightning", tracking_uri=uri),
            log_every_n_steps=notebook.LOG_INTERVAL,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        trainer.fit(model, loader)
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # the logger sets it for the whole process
    return model.seconds / max_iters
