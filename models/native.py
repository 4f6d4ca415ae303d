"""The kernels have moved; this file says to where, for those who type the old name."""

if __name__ == "__main__":
    raise SystemExit("python models/native.py is now: python -m kernels.native")
