"""What `charlm bench` measures, and the baselines that it measures against; run as `python -m benchmarks`."""
