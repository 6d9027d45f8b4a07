"""Refits: what the weights that stay become, layer after layer, for units and single weights."""
