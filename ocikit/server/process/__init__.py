"""Server processes: start, workers, options, access log, metrics."""
