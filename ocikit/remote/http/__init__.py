"""HTTP for one host: connections, retries, schemes, redirects, responses."""
