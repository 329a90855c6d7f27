"""The scaler on EC2 with its troubles: seeded runs, judged by what truly happened and not by what the scaler says."""
