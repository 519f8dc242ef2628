"""What is built on files by URL: differences between versions, and tables by their footers."""
