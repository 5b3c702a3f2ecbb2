"""FeatureRegistryService: feature groups and features."""
