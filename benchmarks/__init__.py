"""charlm beside the notebook that it grew from: `python -m benchmarks` measures both and writes docs/benchmarks.md."""
