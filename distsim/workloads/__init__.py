"""Models with their data: each a description without torch and a task with it."""
