"""Access control of the registry: passwords, tokens, rules, login throttling."""
