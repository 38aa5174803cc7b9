"""KFP components, one a file, named verb_noun."""
