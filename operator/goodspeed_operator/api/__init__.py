"""The typed GoodSpeedCluster: what it may say, its defaults, and its CRD, from one set of types."""
