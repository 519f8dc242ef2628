"""Targets that read what others wrote, and damage for them; `python -m tests.fuzz --help`."""
