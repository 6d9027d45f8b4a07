"""Removing units from a model: slice the weights, refit the consumers, check, save and load."""
