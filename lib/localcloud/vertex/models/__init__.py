"""ModelService: models, versions and evaluations."""
