"""Prepares ImageNet or image files as a TFDS directory: `python prepare.py --help`."""

from data_source.prepare import main

if __name__ == "__main__":
    main()
