"""Running a model while watching its calls, and leaving it as it was."""
