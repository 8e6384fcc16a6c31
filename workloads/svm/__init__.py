"""A linear support vector machine, in its primal form."""
