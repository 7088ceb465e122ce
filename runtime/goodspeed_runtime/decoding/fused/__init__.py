"""The decoder layer at memory-bandwidth speed on CUDA, for the families that share Llama's shape."""
