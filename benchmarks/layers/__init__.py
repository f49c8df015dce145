"""Single layers: who takes part, and the program that lets them."""
