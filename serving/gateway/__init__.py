"""The HTTP gateway: a user id in, recommendations with titles out."""
