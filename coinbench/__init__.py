"""coinbench: evaluate and benchmark concept-based interpretable networks."""
