"""Measure how fast `bulkcert` is, what it costs, and how exactly it keeps its ceilings.

Each benchmark is a module with a function `run(settings)`, which yields rows as it measures them:

    pacing sources             against the ceiling, served by `bulkcert simulate`
    cost alternatives profile  without a ceiling, served by nginx
    commits scale startup uvloop keys

Shared by them:

    workload     target files, job files and the environment of a run
    processes    starts programs and measures what they use
    alternating  runs programs in turn, so that their ratio means something
    nginx        the cheapest server there is; stand_in does the same without nginx
    results      records rows and writes the tables in docs/performance.md

Programs to compare with: `baseline`, `sdk`, `with_uvloop`. `checkouts` compares two versions of
`bulkcert` and records nothing.
"""
