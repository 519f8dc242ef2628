"""Data model of the OCI specifications, without I/O."""
