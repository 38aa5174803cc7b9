"""Great Expectations suites for the tables, and their report."""
