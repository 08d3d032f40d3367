"""python train.py [model=wgan] [data=mnist] [key=value ...]; -m sweeps. See `python train.py --help`."""

from gantry.commands.train import main

if __name__ == "__main__":
    main()
