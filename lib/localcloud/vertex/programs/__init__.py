"""Containers of models and jobs, run as processes or on a Docker engine."""
