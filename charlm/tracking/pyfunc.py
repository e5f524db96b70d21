"""The model as MLflow runs it, prompts in and texts out: the script that "models from code" loads, nothing pickled.

It is in the model's artifacts beside checkpoint, vocabulary and charlm's own code, so it works where charlm is not
installed. MLflow runs it instead of importing it, hence `set_model` at its end.
"""

import time
from collections.abc import Iterable
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

MAX_PROMPTS = 1_000
MAX_CHARACTERS = 1_000_000
"""Generated for one request, over all prompts."""
MAX_SECONDS = 60
"""Of work for one request, by the speed that was measured when the model was loaded."""
_MEASURED = 20  # characters


class CharacterModel(PythonModel):
    """A trained model with its vocabulary."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load checkpoint and vocabulary from the model's artifacts."""
        from pathlib import Path

        from charlm.models import checkpoint
        from charlm.models.sampling import BATCH
        from charlm.text.vocabulary import Vocabulary

        self.vocabulary = Vocabulary.load(Path(context.artifacts["vocabulary"]))
        self.model = checkpoint.load(Path(context.artifacts["checkpoint"]), self.vocabulary)
        self.first = self._seconds(1)
        self.each = max(0.0, self._seconds(BATCH) - self.first) / (BATCH - 1)

    def _seconds(self, prompts: int) -> float:
        """What one more character of so many prompts takes."""
        from charlm.models.sampling import samples

        start, prompt = time.perf_counter(), self.vocabulary.characters[0]
        samples(self.model, self.vocabulary, [prompt] * prompts, max_new_tokens=_MEASURED, temperature=1, seed=0)
        return (time.perf_counter() - start) / _MEASURED

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 MLflow passes it by this name
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """Each prompt, a row of the only column, and the text after it: the same for a seed, whatever the other rows.

        Raises MlflowException, which a server answers as 400, for an invalid prompt or parameter.
        """
        from charlm.errors import CharlmError
        from charlm.models.sampling import batches, samples

        prompts = _strings(model_input.iloc[:, 0])
        seconds = sum(self.first + (len(batch) - 1) * self.each for batch in batches(prompts))
        settings = _checked(len(prompts), params or {}, seconds)
        try:
            return samples(self.model, self.vocabulary, prompts, **settings)
        except CharlmError as err:
            raise MlflowException.invalid_parameter_value(err.message) from err


def _strings(values: Iterable[object]) -> list[str]:
    """The prompts; MlflowException if one is no string: the signature lets any value in, as MLflow would convert it."""
    prompts = [value for value in values if isinstance(value, str)]
    if others := [value for value in values if not isinstance(value, str)]:
        raise MlflowException.invalid_parameter_value(f"A prompt is {others[0]!r}: expected a string.")
    return prompts


def _checked(prompts: int, params: dict[str, Any], seconds: float) -> dict[str, Any]:
    """`params` as `sample` takes them; MlflowException if they or the work are out of bounds.

    `seconds` is what one more character of all prompts takes.
    """
    names = ("max_new_tokens", "temperature", "seed")
    if nulls := [name for name in names if params[name] is None]:
        message = f"{nulls[0]} is null: expected a number, or nothing for the model's own."
        raise MlflowException.invalid_parameter_value(message)
    tokens, temperature, seed = (params[name] for name in names)
    needed = tokens * seconds
    problems = {
        "no prompt: expected at least one": prompts < 1,
        f"{prompts} prompts: expected at most {MAX_PROMPTS} in a request": prompts > MAX_PROMPTS,
        f"max_new_tokens is {tokens}: expected 1 or more": tokens < 1,
        f"{prompts} times {tokens} characters: expected at most {MAX_CHARACTERS} in all": prompts * tokens
        > MAX_CHARACTERS,
        f"{prompts} times {tokens} characters would take {needed:,.0f} s: expected at most {MAX_SECONDS}": needed
        > MAX_SECONDS,
        f"temperature is {temperature}: expected a finite number above 0": not 0 < temperature < float("inf"),
        f"seed is {seed}: expected 0 or more": seed < 0,
    }
    if found := [problem for problem, applies in problems.items() if applies]:
        raise MlflowException.invalid_parameter_value("; ".join(found) + ".")
    return {"max_new_tokens": int(tokens), "temperature": float(temperature), "seed": int(seed)}


set_model(CharacterModel())
