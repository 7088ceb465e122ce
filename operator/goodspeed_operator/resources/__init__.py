"""From a GoodSpeedCluster to the manifests of its fleet, as pure functions."""
