"""The reports of a run, made from its store and from nothing else, at any time.

`results` turns records into JSON lines and CSV; `summary` counts. docs/output.md describes both.
"""
