"""PipelineService: pipeline jobs."""
