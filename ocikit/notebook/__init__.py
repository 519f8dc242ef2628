"""The notebook user interface: explorer, login form, previews."""
