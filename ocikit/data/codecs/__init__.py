"""Objects of a family of libraries, as files."""
