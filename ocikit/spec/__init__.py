"""The documents of the OCI specifications as values, without input or output."""
