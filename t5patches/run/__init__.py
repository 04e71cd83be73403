"""T5X's scripts as functions, and what gin files bind to run them."""
