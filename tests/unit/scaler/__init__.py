"""What the scaler decides and keeps, without a broker; its local provider on stub processes."""
