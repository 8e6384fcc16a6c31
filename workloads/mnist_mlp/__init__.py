"""A network of one hidden layer on MNIST."""
