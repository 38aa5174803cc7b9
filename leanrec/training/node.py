"""What each pod of a TrainJob runs: `python -m leanrec.training.node JOB.json`.

torchrun with the rendezvous of the PET_* variables. torchrun itself ends with 1 whatever went wrong; this
ends with 2 where the processes have said that they would end so again, so that the cluster does not start
them again (k8s/components/trainer). Nodes that only lost the others read the word of who found the fault.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from leanrec.errors import TrainingError
from leanrec.files import read_json
from leanrec.training.job import Job, last_word


def main(path: str) -> int:
    """Run the job in the JSON file at `path`; the exit status."""
    try:
        run.main(["-m", "leanrec.training.worker", path])
    except ChildFailedError as error:
        print(error, file=sys.stderr, flush=True)
        word = last_word(Path(Job(**read_json(Path(path))).folder))
        return TrainingError.exit_status if word is not None and word.final else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
