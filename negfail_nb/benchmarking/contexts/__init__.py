"""Long contexts, filled to the token."""
