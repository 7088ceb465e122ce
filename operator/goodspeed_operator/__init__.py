"""The operator: what a GoodSpeedCluster asks for, kept true in Kubernetes or on one machine."""
