"""Raw interactions: sources, ingest, vocabularies."""
