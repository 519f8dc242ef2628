"""What users call: the session with its verbs, and what the verbs return."""
