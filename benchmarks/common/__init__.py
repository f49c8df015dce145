"""What the benchmarks of speed have in common: fair timing, equality before timing, tables, files and plots."""
