"""FeatureOnlineStoreAdminService, FeatureOnlineStoreService: stores, views, syncs, fetching."""
