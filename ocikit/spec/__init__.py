"""What OCI documents mean: values without I/O."""
