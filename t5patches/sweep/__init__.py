"""Many updates of one model: methods, alphas, learning rates, seeds; who is better."""
