"""What is in a file, from a few of its bytes. This package knows no store, no network and no artifact."""
