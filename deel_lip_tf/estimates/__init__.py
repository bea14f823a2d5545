"""What is looked at and proves nothing: estimates, singular values, attacks on constants."""
