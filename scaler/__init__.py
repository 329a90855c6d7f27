"""The scaler: turns lag into instances, and idle instances into nothing."""
