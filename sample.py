"""python sample.py run=<folder, MLflow id, latest, best, model>: images from a trained generator. See --help."""

from gantry.commands.sample import main

if __name__ == "__main__":
    main()
