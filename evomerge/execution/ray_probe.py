"""Ask the head of a Ray cluster whether it has authentication, in a process of its own.

Ray ends a process from C++ where it has to authenticate and has no token, and waits for minutes for a server that is
not Ray's; so the question is asked by a child, which the caller may kill. Run as
`python -m evomerge.execution.ray_probe HOST:PORT`; it prints one of the words below.
"""

import os
import sys

#: No authentication: anybody who reaches the address can run code there.
OPEN = "open"
#: The token that Ray finds here is the cluster's.
ACCEPTED = "accepted"
#: There is authentication, and Ray finds no token here.
NO_TOKEN = "no-token"  # noqa: S105 - a word of our own
#: There is authentication, and the token here is another one.
REFUSED = "refused"
#: Seconds that one call may take.
_PATIENCE = 5


def main(address: str) -> str:
    """Return what the head says to a client without a token, then to one with the token of this user."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    def answers() -> bool:
        try:
            GcsClient(address=address).internal_kv_keys(b"", namespace=b"evomerge", timeout=_PATIENCE)
        except AuthenticationError:
            return False
        return True

    if answers():
        return OPEN
    if not AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        return NO_TOKEN
    os.environ["RAY_AUTH_MODE"] = "token"
    Config.initialize("")
    return ACCEPTED if answers() else REFUSED


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1]))
