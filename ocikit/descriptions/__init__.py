"""What is in files, from their bytes."""
