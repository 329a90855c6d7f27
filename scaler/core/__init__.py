"""What the scaler decides: pure functions over frozen values."""
