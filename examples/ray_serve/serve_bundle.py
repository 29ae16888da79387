"""Serve a bundle on this machine until Ctrl-C: a private Ray that listens on loopback and leaves nothing behind.

python serve_bundle.py BUNDLE [--port 8000] [--replicas 1]
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from rrise import BundleError, Certifier
from rrise.targets.ray_session import session


def main() -> int:
    """Start Ray and Serve, say where, wait for a signal, stop both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--replicas", type=int, default=1)
    arguments = parser.parse_args()
    bundle = arguments.bundle.resolve()  # a replica starts in another folder
    try:
        Certifier.load(bundle)
    except BundleError as error:
        print(f"serve_bundle: {error}", file=sys.stderr)
        return 1

    stop = threading.Event()
    with session("", lambda line: None if stop.is_set() else print(line, file=sys.stderr)):
        from deployment import build  # imports ray, which reads the environment that the session has set
        from ray import serve

        logging.getLogger("ray.serve").setLevel("WARNING")
        try:
            serve.start(
                proxy_location="HeadOnly",
                http_options={"host": "127.0.0.1", "port": arguments.port},
                logging_config={"log_level": "WARNING", "enable_access_log": False},
            )
            serve.run(build({"bundle": str(bundle), "replicas": str(arguments.replicas)}))
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
            print(f"serving {arguments.bundle} at http://127.0.0.1:{arguments.port}/certify", flush=True)
            stop.wait()
        finally:
            stop.set()
            serve.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
