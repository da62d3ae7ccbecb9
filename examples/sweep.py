"""Train with several constants and several seeds, run after run. Run: python -m examples.sweep

PROGRAM itself is never touched: a copy of it runs with other constants at its top, and each run
leaves a folder in results/ as usual. python -m examples.compare draws them. Ctrl-C saves the run
under way and ends the sweep.
"""

import signal
import sys

from examples.train import ROOT, change, train

PROGRAM = "discrete_A3C.py"  # or "examples/memory.py", or a program of your own beside utils.py
CHANGES = [  # of constants at the top of PROGRAM; {} is the program as it is
    {},
    {"UPDATE_GLOBAL_ITER": 20, "GAMMA": 0.99, "LR": 2e-3, "REWARD_SCALE": 10.0, "MAX_EP": 1000},
]
SEEDS = [0, 1, 2]


def main():
    runs = [{**changes, "SEED": seed} for seed in SEEDS for changes in CHANGES]
    text = (ROOT / PROGRAM).read_text(encoding="utf-8")
    for constants in runs:
        change(text, constants)  # a constant that PROGRAM does not have is an error now, not later
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for number, constants in enumerate(runs, 1):
        run = train(PROGRAM, constants)
        changed = ", ".join(f"{name} = {value}" for name, value in constants.items())
        print(f"{changed}: {run.seconds:.0f} s, average {run.average}, greedy {run.greedy}", end="")
        print(f", in {run.folder}; {len(runs) - number} left", flush=True)
        if run.code != 0:
            if run.code != 130:  # not Ctrl-C
                print(run.errors, file=sys.stderr)
            sys.exit(run.code)


if __name__ == "__main__":
    main()
