"""The working folder of a pull: its plan, its files and its record."""
