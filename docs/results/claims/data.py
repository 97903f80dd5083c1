"""Writes the rows on which the claims are tested: the paper's five datasets without the pilot's first replicate.

    HYCAM_DATA=FOLDER python docs/results/claims/data.py NEW_FOLDER

The first of the pilot's five replicates chose forms and learning rates, so none of its rows, nor any of the same group (a
Dolly context, or else the question), may be in a confirmation. The other four fifths are written as
``NEW_FOLDER/TASK.jsonl``, line by line as they are in the source.
"""

import gzip
import sys
from pathlib import Path

from hycam.data.chosen import chosen_tasks
from hycam.data.partition import column, partition
from hycam.data.recipe import DataRecipe, SplitRecipe

TASKS = ["auto_cot", "icliniq", "dolly", "code_alpaca", "webgpt"]
PILOT = DataRecipe(tasks=[*TASKS], split=SplitRecipe("disjoint", replicates=5, validation_rows=20, test_rows=70))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, chosen in chosen_tasks(PILOT).items():
        path = chosen.tasks[0].sources[0].path()
        if path is None:
            sys.exit(f"There is no {name}.jsonl or {name}.jsonl.gz in the folder that HYCAM_DATA names.")
        first = partition(chosen, PILOT)
        left_out = set(first.split.train) | set(first.split.validation) | set(first.split.test)
        identities = list(column(first.rows.dataset, "row"))  # auto_cot.jsonl:17 is line 17
        lines = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).split(b"\n")
        kept = [lines[int(identities[row].rpartition(":")[2]) - 1] for row in range(len(identities)) if row not in left_out]
        (folder / f"{name}.jsonl").write_bytes(b"".join(line + b"\n" for line in kept))
        print(f"{name}: {len(kept):,} of {len(identities):,} rows")


main(Path(sys.argv[1]))
