"""The stand-in for Vertex AI, over REST; see ../README.md."""
