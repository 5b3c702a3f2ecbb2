"""JobService: custom jobs."""
