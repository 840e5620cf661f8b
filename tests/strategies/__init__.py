"""What strategies promise without being run."""
