"""Arithmetic that no machine changes, for any PyTorch code: the same bytes on every x86-64 CPU.

```python
with exact():
    loss = loss_of(model(x), y)
    loss.backward()
    optimizer.step()
```

`exact` sees every operation that PyTorch runs in the block, in forward, backward and optimizer, and computes it so that
neither the order of a sum nor the instructions of the CPU change a bit of the result; what it cannot compute so, it
refuses by name with `NotExact`. The promise is of the bytes of the numbers that the code keeps, float32 or float64.

The package imports torch and numpy, and nothing of charlm. docs/exact.md says how it works, what it costs, and what it
does not see: arithmetic in Python's own floats.
"""

from contextlib import AbstractContextManager

from charlm.exact.errors import NotExact

__all__ = ["NotExact", "exact"]


def exact() -> AbstractContextManager[object]:
    """A block in which PyTorch computes the same bytes on every x86-64 CPU, for any number of threads.

    Of one thread, on the CPU. Raises NotExact at the first operation that has no exact form.
    """
    from charlm.exact.mode import Exact  # it imports torch

    return Exact()
