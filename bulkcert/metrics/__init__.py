"""The figures of a run for Prometheus: by scraping, and in a file.

In: what the event loop counts. Out: the text that Prometheus reads. What renders, writes and serves
it has threads of its own and sees nothing but finished snapshots, so neither the event loop nor the
store ever waits for it.

figures      counts, and takes a snapshot at each tick; on the event loop
series       what each series means, and its value in a snapshot
exposition   a snapshot as text; the only part that needs `prometheus_client`
file         keeps `metrics.prom` in the run directory up to date
address      HOST:PORT, as a user writes it
server       serves the text to those who scrape it
"""
