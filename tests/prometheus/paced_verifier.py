"""The verifier's own command, with passes that take as long as a large target's on a device of its own.

Several verifiers of a test share a few cores: what one computes the other waits for, which no fleet of
machines knows. Here a pass sleeps most of its time, so that they share nothing.
"""

import time

from goodspeed_runtime.decoding import serving
from goodspeed_runtime.verifier.main import main

PASS_SECONDS, TOKEN_SECONDS = 0.06, 0.001


def paced(serve):
    def serve_paced(*arguments, **options):
        model = serve(*arguments, **options)
        forward = model.forward

        def pass_of(segments):
            tokens = sum(len(segment.tokens) for segment in segments)
            end = time.monotonic() + PASS_SECONDS + TOKEN_SECONDS * tokens
            logits = forward(segments)
            time.sleep(max(0.0, end - time.monotonic()))
            return logits

        model.forward = pass_of
        return model

    return serve_paced


if __name__ == "__main__":
    serving.serve = paced(serving.serve)
    main()
