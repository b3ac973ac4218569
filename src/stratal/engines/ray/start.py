"""``python -m stratal.engines.ray.start start …``: Ray's own command line, but loopback stays loopback.

Ray takes 127.0.0.1 for "any address of this machine" and goes on to another one, which would put a
cluster meant for one machine on its network. Given the loopback address itself, Ray listens there only.
"""

import sys


def stay_on_loopback() -> None:
    """Have Ray take loopback addresses at their word, in this process."""
    import ray._private.services as services

    services.resolve_ip_for_localhost = lambda host: host


def main() -> None:
    from ray.scripts.scripts import main as ray

    stay_on_loopback()
    sys.exit(ray())


if __name__ == "__main__":
    main()
