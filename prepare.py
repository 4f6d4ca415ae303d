"""Prepares a set, ImageNet's tars or image files for TFDS: python prepare.py --help."""

from data_source.prepare import main

if __name__ == "__main__":
    main()
