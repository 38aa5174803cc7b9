"""The artifacts of a whole run, in the formats that the steps write, with figures like MovieLens-100K's."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from leanrec.files import write_json
from leanrec.journal import StepRecord
from leanrec.report.flow import PIPELINE
from leanrec.report.inputs import ReportInputs, RunFacts

SECONDS = {"validate_tables": 6.4, "train_models": 58.0, "evaluate_models": 6.2, "compress_models": 17.5}
"""What the longest steps took; every other one took 1.5 seconds."""
TITLES = [
    "Star Wars", "The Godfather", "Fargo", "Contact", "The English Patient", "Scream", "Toy Story",
    "Twelve Monkeys", "The Silence of the Lambs", "Jerry Maguire", "Raiders of the Lost Ark", "Pulp Fiction",
    "One Flew Over the Cuckoo's Nest", "Monty Python and the Holy Grail",
]  # fmt: skip


def make_journal(steps: list[str] | None = None) -> list[StepRecord]:
    clock, records = 1_750_000_000.0, []
    for name in PIPELINE:
        seconds = SECONDS.get(name, 1.5)
        if steps is None or name in steps:
            records.append(StepRecord(step=name, started=clock, seconds=seconds))
            clock += seconds + 0.6
    return records


def make_facts(**changes) -> RunFacts:
    facts = {
        "name": "movielens-100k",
        "run_id": "20260501-120000",
        "started": "2026-05-01T12:00:00+00:00",
        "total_seconds": 128.4,
        "code_version": "239c5a2",
    }
    return RunFacts(**{**facts, **changes})


def evaluation() -> dict:
    lists = {"chain": 0.131, "retriever": 0.124, "popularity": 0.0771, "item_knn": 0.1187}

    def figures(ndcg: float) -> dict:
        return {
            f"{name}@{k}": round(ndcg * scale * math.log2(k) / 3.3, 4)
            for k in (5, 10, 20, 50)
            for name, scale in (
                ("recall", 1.2),
                ("ndcg", 1),
                ("hit_rate", 3.4),
                ("mrr", 1.6),
                ("coverage", 1.1),
            )
        }

    def interval(value: float, half: float) -> dict:
        return {"value": value, "low": value - half, "high": value + half}

    retrieval = {name: {**figures(value), "ndcg@10": value} for name, value in lists.items()}
    points = [(i + 0.5) / 15 for i in range(15)]
    return {
        "protocol": {
            "split": "test", "num_users": 833, "num_relevant": 4531, "num_items": 1682,
            "mean_candidates": 1580.4, "num_pairs": 9596, "liked_share": 0.472, "rule": "full ranking",
        },
        "retrieval": retrieval,
        "ranking": {
            "auc": 0.7712, "log_loss": 0.5712, "rmse": 0.981, "ece": 0.0312,
            "calibration": [
                {"predicted": p, "observed": min(1, p + 0.05 * math.sin(6 * p)), "count": 640} for p in points
            ],
        },
        "intervals": {
            "ndcg@10": {name: interval(value, 0.011) for name, value in lists.items()},
            "ndcg@10_difference": {
                "retriever": interval(0.007, 0.009),
                "popularity": interval(0.0539, 0.01),
                "item_knn": interval(0.0123, 0.0101),
            },
            "auc": interval(0.7712, 0.006),
        },
        "segments": [
            {"name": "cold users", "num_requests": 208, "num_pairs": 655, "ndcg": 0.118, "auc": 0.742},
            {"name": "other users", "num_requests": 625, "num_pairs": 8941, "ndcg": 0.136, "auc": 0.775},
            {"name": "head items", "num_requests": 801, "num_pairs": 6920, "ndcg": 0.152, "auc": 0.768},
            {"name": "tail items", "num_requests": 0, "num_pairs": 2676, "ndcg": None, "auc": 0.751},
        ],
        "baselines": {"item_knn": {"chosen_on_valid": {"signal": "events", "neighbours": 400}}},
    }  # fmt: skip


def front() -> dict:
    rows = [
        ("fp32", 12_480_000, 3.9, 0.0, 0.0, 1.0, True, "1.7 times the bytes of int8 for no better list"),
        ("fp16", 6_310_000, 4.2, 0.0001, 0.0004, 0.93, True, "slower than int8 at twice its bytes"),
        ("int8_tables", 3_920_000, 4.0, 0.0002, 0.0011, 0.88, True, "slower than int8"),
        ("int8_mlp", 11_200_000, 2.6, 0.0004, 0.0021, 0.74, True, "three times the bytes of int8"),
        ("int8", 3_310_000, 2.4, 0.0005, 0.0031, 0.61, True, None),
        ("int4", 2_250_000, 2.9, 0.0061, 0.034, 0.71, False, "AUC falls by 0.0061, floor 0.001"),
    ]
    candidates = [
        {
            "recipe": recipe, "bytes": size, "resident_bytes": None,
            "latency_ms": {"p50": p50, "p95": p50 * 1.3, "p99": p50 * 1.9},
            "auc": 0.7712 - auc_loss, "log_loss": 0.571, "ece": 0.031, "ndcg@10": 0.131 * (1 - ndcg_loss),
            "auc_loss": auc_loss, "ndcg_loss": ndcg_loss, "objective": objective, "within_floor": within,
            "why_not": why_not,
            "triton": {
                **{
                    model: {
                        "latency_ms": {"p50": p50 + more, "p95": p50 + 1.1, "p99": p50 + 2.0},
                        "latency_many_ms": {"p50": 9.0, "p95": 12.0, "p99": 14.0},
                        "bit_equal": True,
                    }
                    for model, more in (("recommender", 0.7), ("ranker", 0.4))
                },
                "resident_bytes": 83_000_000,
            } if recipe != "int8_mlp" else None,
            "segments": [
                {
                    "name": "cold users", "num_requests": 200, "num_pairs": 600,
                    "ndcg": 0.1234, "auc": 0.751, "log_loss": 0.5874, "ece": 0.0456,
                },
                {
                    "name": "cold items", "num_requests": 0, "num_pairs": 0,
                    "ndcg": None, "auc": None, "log_loss": None, "ece": None,
                },
            ],
        }
        for recipe, size, p50, auc_loss, ndcg_loss, objective, within, why_not in rows
    ]  # fmt: skip
    return {
        "chosen": "int8",
        "reason": "the least objective of the five recipes above the quality floor: 38 % faster at 27 % of "
        "the bytes, for an AUC lower by 0.0005.",
        "baseline": "fp32",
        "candidates": candidates,
    }


def starts() -> dict:
    """A warm start beside a full training, which is better by more than chance in AUC alone."""

    def interval(value: float, half: float) -> dict:
        return {"value": value, "low": value - half, "high": value + half}

    def figures(shift: float) -> dict:
        return {
            "ndcg@10": interval(0.131 + shift, 0.011),
            "auc": interval(0.7712 + shift, 0.006),
            "log_loss": 0.5712 - shift,
        }

    return {
        "chosen": "warm",
        "reason": "full training is not better beyond doubt: NDCG@10 on the valid split +0.0030",
        "starts": {
            "warm": {
                "seconds": 24.0, "epochs": {"retriever": 2, "ranker": 1},
                "valid": figures(0.001), "test": figures(0.0),
            },
            "full": {
                "seconds": 60.0, "epochs": {"retriever": 20, "ranker": 3},
                "valid": figures(0.004), "test": figures(0.005),
            },
        },
        "full_less_warm": {
            split: {"ndcg@10": interval(0.005, 0.007), "auc": interval(0.005, 0.001)}
            for split in ("valid", "test")
        },
    }  # fmt: skip


def smoke() -> dict:
    def user(pseudonym: str, shift: int, known: bool = True) -> dict:
        titles = TITLES[shift:] + TITLES[:shift]
        return {
            "user": pseudonym,
            "known": known,
            "liked": [{"title": title, "rating": 5.0} for title in titles[10:14]] if known else [],
            "recommendations": [
                {
                    "rank": rank + 1,
                    "item_id": str(rank),
                    "title": title,
                    "score": 0.81 - 0.04 * rank,
                    "because": [titles[11], titles[12]] if known and rank % 3 == 0 else [],
                }
                for rank, title in enumerate(titles[:10])
            ],
        }

    return {
        "latency_ms": {"p50": 4.12, "p95": 6.3, "p99": 9.8, "n": 300},
        "server": {"triton": "2.51.0", "model_version": 7},
        "users": [user("8f3c1a9b27d4", 0), user("11ab90cc4e5f", 4), user("nobody", 8, known=False)],
    }


def write_artifacts(folder: Path) -> dict[str, Path]:
    """Every artifact that the report reads, below `folder`."""
    for name, rows in (("events", 100_000), ("items", 1682), ("users", 943), ("training_set", 100_000)):
        pq.write_table(pa.table({"id": pa.nulls(rows, pa.int8())}), folder / f"{name}.parquet")
    expectations = [
        {
            "table": table, "column": column, "rule": rule, "passed": True,
            "expectation": "ExpectColumnValuesToBeBetween", "error": None, "observed": "1 to 5",
            "num_rows": 100_000, "num_failing": 0, "failing_rows": [], "message": "",
        }
        for table, column, rule in [
            ("events", "rating", "between 1 and 5"), ("events", "timestamp", "not after the run's start"),
            ("events", "event_id", "unique"), ("events", "item_id", "in the item table"),
            ("items", "title", "not null"), ("users", "user_id", "unique"),
        ]
    ]  # fmt: skip
    checks = [
        {"figure": figure, "value": value, "bound": bound, "passed": True, "detail": ""}
        for figure, value, bound in [
            ("ndcg@10 against item_knn", 0.131, "> 0.1187"),
            ("expected calibration error of P(like)", 0.0312, "<= 0.1"),
        ]
    ]
    epochs = [
        {"epoch": n, "loss": 5.2 * math.exp(-n / 9) + 3.1, "ndcg": 0.14 * (1 - math.exp(-n / 5)),
         "samples_per_s": 41_000.0, "seconds": 1.9} for n in range(1, 21)
    ]  # fmt: skip
    phases = {"data": 0.3, "embedding": 0.7, "dense": 0.6, "communication": 0.1}
    ranker = [
        {**epoch, "auc": 0.5 + epoch["ndcg"] * 2, "learning_rate": 2e-3, "phases": phases}
        for epoch in epochs[:8]
    ]
    content = {
        "validation/validation.json": {"passed": True, "expectations": expectations},
        "validation/gate.json": {"gate": "validation", "passed": True, "checks": []},
        "evaluation/evaluation.json": evaluation(),
        "evaluation/gate.json": {"gate": "evaluation", "passed": True, "checks": checks},
        "model/curves.json": {"retriever": epochs, "ranker": ranker},
        "model/model.json": {"spec": {"num_items": 1683}},
        "compressed/front.json": front(),
        "compressed/gate.json": {"gate": "compression", "passed": True, "checks": [
            {"figure": "ndcg@10 of int8 against item_knn", "value": 0.1306, "bound": "> 0.1187",
             "passed": True, "detail": "95 % interval 0.1194 to 0.1421"},
        ]},
        "parity/parity.json": {
            "num_golden": 256,
            "graphs": [
                {"recipe": "fp32", "model": "recommender", "server_difference": 0.0,
                 "max_score_difference": 3.1e-7, "bound": 1e-5, "score_ratio": 1.01,
                 "same_top_10": 1.0, "shared_top_10": 1.0},
                {"recipe": "int8", "model": "recommender", "server_difference": 0.0,
                 "max_score_difference": 0.0041, "bound": None, "score_ratio": 1.12,
                 "same_top_10": 0.836, "shared_top_10": 0.979},
            ],
            "bounds": {
                "max_score_difference": 1e-5, "min_same_top_10": 0.99, "max_score_ratio": 1.25,
                "min_shared_top_10": 0.9,
            },
        },
        "parity/gate.json": {"gate": "parity", "passed": True, "checks": []},
        "release.json": {
            "name": "movielens-100k", "version": 7, "previous": 6, "repository": "model_repository",
            "published_at": "2026-05-01T12:02:00+00:00", "bytes": 3_310_000, "recipe": "int8",
        },
        "smoke.json": smoke(),
    }  # fmt: skip
    for name, value in content.items():
        write_json(folder / name, value)
    files = {name: folder / f"{name}.parquet" for name in ("events", "items", "users", "training_set")}
    folders = {name: folder / name for name in ("validation", "evaluation", "model", "compressed", "parity")}
    return {**files, **folders, "release": folder / "release.json", "smoke": folder / "smoke.json"}


def make_inputs(folder: Path) -> ReportInputs:
    """The inputs of a run that went well."""
    settings = {"name": "movielens-100k", "training": {"seed": 1, "num_processes": 2}}
    return ReportInputs(
        run=make_facts(), journal=make_journal(), settings=settings, **write_artifacts(folder)
    )
