"""Authentication with registries: credentials, tokens, challenges."""
