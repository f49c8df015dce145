"""Whole models: the models, and the program that compares who runs them."""
