"""What was false once, here or elsewhere, and files of earlier releases."""
