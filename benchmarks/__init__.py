"""Measures what `bulkcert` costs and what it keeps: `python -m benchmarks`.

One module for each benchmark, each with a function `run(settings)` that yields rows as they are
measured. A row is one line of the table in README.md, which the program makes itself from the JSON
files in `results/`.
"""
