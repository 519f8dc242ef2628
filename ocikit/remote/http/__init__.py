"""HTTP requests to one host: connections, retries, schemes, redirects, responses."""
