"""The durable state of a run: what a store must do (`base`), what a run is about (`manifest`), the
store in SQLite (`sqlite`), the store that several hosts share (`postgresql`), which of the two a
run is in (`place`), the runs that a shared store has (`runs`), what may be claimed (`claims`), the
thread that writes (`writer`), the processes that have worked on a run (`lives`), what a store says
about its course (`timeline`), and the slots of a ceiling that hosts share (`pace`).
"""
