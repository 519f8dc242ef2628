"""What is built on artifacts as data: queries, differences between versions, and tables by their footers."""
