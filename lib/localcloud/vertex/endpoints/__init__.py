"""EndpointService, PredictionService: deployments and predictions."""
