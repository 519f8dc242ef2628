"""Copies of artifacts between stores: plan, run, worker pool."""
