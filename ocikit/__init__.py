"""Data sets, models and images in any OCI registry."""
