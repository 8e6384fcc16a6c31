"""An LSTM that predicts the next character."""
