"""The rules that keep answers lossless, as settings name them; both ends must follow the same."""

from typing import Literal

VerificationName = Literal["rejection", "coupled"]
