"""Measures what `bulkcert` costs and what it keeps: `python -m benchmarks`.

One module for each benchmark, each with a function `run(scale) -> list[Row]`. A row is one line of
the table in README.md, which the program makes itself.
"""
