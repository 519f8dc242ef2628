"""Where content lives and how it moves; knows no HTTP."""
