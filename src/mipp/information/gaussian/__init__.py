"""Information between jointly Gaussian variables, in closed form."""
