"""Preparation: what is done before anything is started, in a process that ends when it is done.

It reads the configuration, and makes the data folder the service's own. The supervisor gets the descriptor that holds
the folder, and is spared the modules that all this needs.
"""

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from service.config import Config, ConfigInvalid
from service.hold import FolderRefused, Owner
from service.log.ids import KeyringInvalid
from service.log.ownership import keyring_of, make_folders, refuse_other_service, take
from service.processes import UMASK, failed


def prepare(config_path: Path, data: Path, process: int) -> tuple[int, Owner]:
    """Read the configuration and make the data folder that of the service whose supervisor is ``process``.

    Gives the descriptor that holds the folder, to be kept open, and what is to be written into it. Raises
    ConfigInvalid, FolderRefused, KeyringInvalid and OSError.
    """
    config = Config.read(config_path)
    make_folders(data)
    held = take(data, config.name)
    refuse_other_service(data, config.name)
    return held, Owner(config.name, keyring_of(data).fingerprint, process, time.time())


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare for the supervisor that started this process; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m service.preparation", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--answer", type=int, required=True, help="a socket that takes the descriptor")
    options = parser.parse_args(arguments)
    # Ctrl-C reaches all processes of the terminal: the supervisor's end is enough.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.umask(UMASK)
    try:
        held, owner = prepare(options.config, options.data, os.getppid())
        with socket.socket(fileno=options.answer) as answer:
            socket.send_fds(answer, [json.dumps(asdict(owner)).encode()], [held])
    except (ConfigInvalid, FolderRefused, KeyringInvalid) as error:
        return failed(str(error))
    except OSError as error:
        where = error.filename or options.data
        return failed(f"{where}: {error.strerror}, expected a data folder that can be written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
