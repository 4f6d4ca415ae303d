"""What the papers claim: each claim is an experiment that one command repeats.

    python -m claims                       lists the claims and their verdicts
    python -m claims relu_vs_tanh          runs what is missing, prints the verdict
    python -m claims --all --jobs=2        goes on with all of them, the cheapest first
    python -m claims --report              writes docs/claims.md and draws its figures

Each claim is one file of this folder: what the paper says and where, the runs, what is
measured, the rule of the verdict, and the figure. harness/catalogue.py lists what such
a file has. The rule is older than the runs (the history shows it). networks.py has the
networks that only claims need, and harness/ what all claims share.
"""
