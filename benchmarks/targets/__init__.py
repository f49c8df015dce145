"""The instruction sets that a processor has, against each other."""
