"""One constraint in torch: nearest points, Gram solves, multipliers, penalty."""
