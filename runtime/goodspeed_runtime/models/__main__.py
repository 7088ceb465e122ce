"""`python -m goodspeed_runtime.models` is `goodspeed models`."""

from goodspeed_runtime.models.command import app

app()
