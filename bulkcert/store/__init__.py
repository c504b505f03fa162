"""The durable state of a run: the contract (`base`), SQLite (`sqlite`), and the thread that
writes (`writer`).
"""
