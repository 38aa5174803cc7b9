"""A program that trains the tiny world by another worker than the product's."""

RUN = """
import sys, json
from pathlib import Path
from leanrec.config import TrainingSettings
from leanrec.training import train
started = train._torchrun
train._torchrun = lambda number, job: [*started(number, job)[:-3], sys.argv[3], str(job)]
folder = Path(sys.argv[1])
summary = train.train_models(TrainingSettings.parse(json.loads(sys.argv[2])), features=folder / "features",
                             training_set=folder / "training_set.parquet", output=folder / "model")
(folder / "summary.json").write_text(json.dumps(summary))
"""
"""`python -c RUN FOLDER SETTINGS WORKER`: the summary is then in FOLDER/summary.json."""
