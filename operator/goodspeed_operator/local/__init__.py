"""One machine as a node: runs the operator's own manifests as processes, without Kubernetes."""
