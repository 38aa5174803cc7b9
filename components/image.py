"""The image that components are written against; the pipeline sets the real one when it is compiled."""

PIPELINE_IMAGE = "leanrec/pipeline"
