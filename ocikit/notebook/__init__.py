"""Widgets for notebooks: explorer and login form."""
