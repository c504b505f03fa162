"""The reports of a run, made from its store and from nothing else, at any time.

`results` turns records into JSON lines and CSV, with `cells` for single values; `summary` counts.
`history` writes attempts and look-ups; `certificates` the manifest of new certificates. `page` is a
page for people, in HTML. `recorded` reads a `results.jsonl` back. docs/output.md describes the
formats.
"""
