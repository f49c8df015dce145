"""`isogrid benchmark`: what a model costs on this machine, and what zeros would make of it."""
