"""python compare.py [sweep=<folder, run id or name>] [runs=[...]] [filter=...]. See `python compare.py --help`."""

from gantry.commands.compare import main

if __name__ == "__main__":
    main()
