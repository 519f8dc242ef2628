"""Authentication to registries: credentials, challenges and tokens."""
