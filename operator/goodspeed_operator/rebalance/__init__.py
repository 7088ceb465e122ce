"""Pure: from what metrics say to an observation, and from decisions to what people see of them.

What is decided from an observation is `goodspeed_runtime.rebalancing`, which the fleet simulator runs too.
"""
