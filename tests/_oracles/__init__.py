"""What the truth is computed with, apart from the library, and how close is close enough."""
