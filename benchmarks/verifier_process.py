"""`goodspeed-verifier` as it is, but that it leaves with whoever started it."""

from child_process import leave_with_parent
from goodspeed_runtime.verifier.main import main

if __name__ == "__main__":
    leave_with_parent()
    main()
