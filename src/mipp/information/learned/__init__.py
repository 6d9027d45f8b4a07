"""Information measured by small networks that learn to predict."""
