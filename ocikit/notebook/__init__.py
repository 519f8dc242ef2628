"""What people see in notebooks; everything heavy is imported on use."""
