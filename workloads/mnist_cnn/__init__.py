"""A small convolutional network on MNIST."""
