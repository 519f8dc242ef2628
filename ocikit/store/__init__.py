"""The store interface, the stores on disk and in memory, and verified files."""
