"""Other libraries that benchmarks measure us beside, each in an environment of its own."""
