"""Where a run's numbers go besides its ledger: one file per tracker. Each runs in a process of its own."""

#: Where a run keeps the logs and files of its trackers, and how a line for people begins in a log.
FOLDER = "sinks"
SAID = "evomerge: "
