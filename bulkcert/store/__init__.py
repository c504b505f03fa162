"""The durable state of a run: what a store must do (`base`), what a run is about (`manifest`), the
store in SQLite (`sqlite`), the store that several hosts share (`postgresql`), what may be claimed
(`claims`), the thread that writes (`writer`), and what a store says about the course of a run
(`timeline`).
"""
