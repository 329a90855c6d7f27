"""Real servers, engines and images for tests."""
