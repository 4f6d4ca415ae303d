"""Scores the predictions of evaluations: `python scoring.py --help`."""

from evaluation.scoring import main

if __name__ == "__main__":
    main()
