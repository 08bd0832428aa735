"""Ways from a question to an answer, the grid of all of them, and their scores."""
