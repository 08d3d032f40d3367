"""train.py on a disk that takes two seconds to have anything for good."""

import os
import time

from gantry.commands.train import main

sync = os.fsync


def slowly(descriptor):
    time.sleep(2)
    sync(descriptor)


os.fsync = slowly

if __name__ == "__main__":
    main()
