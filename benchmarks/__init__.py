"""The ruler: workloads x contestants, and what only a service is asked. `python -m benchmarks --help`."""
