"""A registry over HTTP: the client of the distribution specification."""
