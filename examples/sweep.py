"""Train with several constants and seeds, one after another. Run: python -m examples.sweep

PROGRAM itself is never touched: a copy of it runs with other constants at its top, and each run
leaves a folder in results/ as usual. python -m examples.compare draws them. Ctrl-C saves the run
under way and ends the sweep. Started again, it skips runs of the same program and constants that
are complete in results/, and goes on. A run that dies does not end the sweep.
"""

import signal
import sys

from examples.train import ROOT, change, is_whole, train

PROGRAM = "discrete_A3C.py"  # or "examples/memory.py", or a program of your own beside utils.py
CHANGES = [  # of constants at the top of PROGRAM; {} is the program as it is
    {},
    {"UPDATE_GLOBAL_ITER": 20, "GAMMA": 0.99, "LR": 2e-3, "REWARD_SCALE": 10.0, "MAX_EP": 1000},
]
SEEDS = [0, 1, 2]


def find_run(constants):
    """Return the folder of a whole run of PROGRAM with these constants, or None."""
    path = ROOT / PROGRAM
    text = change(path.read_text(encoding="utf-8"), constants)
    for copy in ROOT.glob(f"results/*/{path.name}"):
        if copy.read_text(encoding="utf-8") == text and is_whole(copy.parent):
            return copy.parent
    return None


def main():
    runs = [{**changes, "SEED": seed} for seed in SEEDS for changes in CHANGES]
    for constants in runs:
        find_run(constants)  # a constant that PROGRAM does not have is an error now, not later
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    died = False
    for number, constants in enumerate(runs, 1):
        changed = ", ".join(f"{name} = {value}" for name, value in constants.items())
        left = len(runs) - number
        folder = find_run(constants)
        if folder is not None:
            print(f"{changed}: skipped, it is in {folder}; {left} left", flush=True)
            continue
        run = train(PROGRAM, constants)
        print(f"{changed}: {run.seconds:.0f} s, average {run.average}, greedy {run.greedy}", end="")
        print(f", in {run.folder}; {left} left", flush=True)
        if run.code == 130:  # Ctrl-C
            sys.exit(130)
        if run.code != 0:
            print(run.errors, file=sys.stderr, flush=True)
            died = True
    sys.exit(1 if died else 0)


if __name__ == "__main__":
    main()
