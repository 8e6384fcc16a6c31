"""A transformer that predicts the next character."""
