"""The registry as a process: start, workers, options, logs, metrics."""
