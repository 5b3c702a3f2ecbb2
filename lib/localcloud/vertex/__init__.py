"""The stand-in for Vertex AI: Feature Store, Model Registry and endpoints over REST.

Rules, their sources and limits: ../README.md.
"""

from lib.localcloud.vertex.app import PROJECT_NUMBER, create_app

__all__ = ["PROJECT_NUMBER", "create_app"]
