"""Linear regression by gradient descent."""
