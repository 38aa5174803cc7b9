"""From raw interactions to a release that Triton serves.

1. Ingest the raw files into canonical tables.
2. Validate them; a failed expectation stops the run.
3. Build features: only what was known before each event.
4. Join the training set point in time.
5. Look at what is new since the newest release; where `retraining.trigger` wants more, the run ends here.
6. Train the retriever and the ranker, from nothing or from the stable release; or both ways, and compare.
7. Evaluate beside the baselines; a missed bound stops the run.
8. Export the graphs, try the compression recipes, choose one; a missed bound stops the run.
9. Prove parity in a real Triton, and hold what is chosen against what serves; a missed bound stops the run.
10. Materialize the newest user rows, publish release N+1, ask it for recommendations, draw the report.
11. Where `rollout.after_publish` says so, take the release to all users, step by step; or back.
"""

from collections.abc import Callable
from typing import Any

from kfp import dsl

from components.build_features import build_features
from components.build_training_set import build_training_set
from components.check_drift import check_drift
from components.check_parity import check_parity
from components.compress_models import compress_models
from components.enforce_gate import enforce_gate
from components.evaluate_models import evaluate_models
from components.export_graphs import export_graphs
from components.ingest_events import ingest_events
from components.judge_release import judge_release
from components.materialize_features import materialize_features
from components.publish_release import publish_release
from components.roll_out_release import roll_out_release
from components.smoke_test_release import smoke_test_release
from components.train_models import train_models
from components.validate_tables import validate_tables
from components.write_report import write_report
from pipelines.placement import Placement


def build_pipeline(placement: Placement) -> Callable:
    """The pipeline with every step placed; its parameters are the sections of `RunSettings`."""
    place = placement.place

    def gate(report: Any, name: str) -> dsl.PipelineTask:
        return place(enforce_gate(report=report).set_display_name(f"Gate: {name}"))

    @dsl.pipeline(name="leanrec", description="Raw interactions to a compressed release in Triton.")
    def recommender(
        name: str,
        data: dict,
        validation: dict,
        features: dict,
        feature_store: dict,
        training: dict,
        evaluation: dict,
        compression: dict,
        release: dict,
        retraining: dict,
        rollout: dict,
        gateway: dict,
        serving: dict,
        roll_out: bool,
        lineage: dict,
        key_fingerprint: str,
        raw_fingerprint: str,
        vocabulary_fingerprint: str,
        warm_start_fingerprint: str,
        compare_with_full: bool,
    ) -> dsl.Artifact:
        raw = place(
            ingest_events(data=data, key_fingerprint=key_fingerprint, raw_fingerprint=raw_fingerprint)
        )
        placement.give_key(raw).set_display_name("Ingest events").set_caching_options(placement.reuse_ingest)
        tables = {table: raw.outputs[table] for table in ("events", "items", "users")}

        valid = place(validate_tables(validation=validation, data=data, **tables), memory="8Gi")
        valid.set_display_name("Validate tables")
        valid_gate = gate(valid.outputs["report"], "validation")

        built = place(
            build_features(
                features=features,
                data=data,
                release=release,
                vocabulary_fingerprint=vocabulary_fingerprint,
                **tables,
            ),
            memory="8Gi",
        )
        built.set_display_name("Build features").after(valid_gate)
        feature_tables = built.outputs["tables"]

        joined = place(
            build_training_set(feature_store=feature_store, events=tables["events"], features=feature_tables),
            memory="8Gi",
        ).set_display_name("Build training set")
        known = {"features": feature_tables, "training_set": joined.outputs["training_set"]}

        looked = place(
            check_drift(
                retraining=retraining,
                data=data,
                release=release,
                rollout=rollout,
                feedback=raw.outputs["feedback"],
                **known,
            ),
            memory="8Gi",
        )
        looked.set_display_name("Check drift").set_caching_options(False)

        with dsl.If(looked.outputs["Output"] == True, name="retrain"):  # noqa: E712 - KFP's own comparison
            learning = train_models(
                training=training,
                release=release,
                warm_start_fingerprint=warm_start_fingerprint,
                compare_with_full=compare_with_full,
                **known,
            )
            trained = placement.place_training(learning, cpu="2", memory="16Gi")
            trained.set_display_name("Train models")
            model = trained.outputs["model"]

            evaluated = place(evaluate_models(evaluation=evaluation, model=model, **known), memory="8Gi")
            evaluated.set_display_name("Evaluate models")
            quality_gate = gate(evaluated.outputs["report"], "evaluation")

            exported = place(export_graphs(release=release, model=model, **known), memory="8Gi")
            exported.set_display_name("Export graphs").after(quality_gate)
            graphs = exported.outputs["graphs"]

            squeezed = place(
                compress_models(
                    compression=compression,
                    graphs=graphs,
                    model=model,
                    evaluation=evaluated.outputs["report"],
                    **known,
                ),
                memory="8Gi",
            )
            squeezed.set_display_name("Compress models")
            compressed = squeezed.outputs["compressed"]
            compression_gate = gate(compressed, "compression")

            proven = place(check_parity(release=release, graphs=graphs, compressed=compressed), memory="4Gi")
            proven.set_display_name("Check parity").after(compression_gate)
            parity_gate = gate(proven.outputs["report"], "parity")

            judged = place(
                judge_release(
                    evaluation=evaluation, release=release, graphs=graphs, compressed=compressed, **known
                ),
                memory="8Gi",
            )
            judged.set_display_name("Judge release").after(compression_gate).set_caching_options(False)
            judgement_gate = gate(judged.outputs["report"], "judgement")

            online = place(materialize_features(feature_store=feature_store, features=feature_tables))
            online.set_display_name("Materialize features").after(parity_gate, judgement_gate)
            online.set_caching_options(False)

            published = place(
                publish_release(
                    release=release,
                    name=name,
                    lineage=lineage,
                    job=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
                    model=model,
                    feedback=raw.outputs["feedback"],
                    compressed=compressed,
                    features=feature_tables,
                    evaluation=evaluated.outputs["report"],
                    parity=proven.outputs["report"],
                    judgement=judged.outputs["report"],
                )
            )
            published.set_display_name("Publish release").after(online).set_caching_options(False)

            answered = place(
                smoke_test_release(
                    release=release,
                    feature_store=feature_store,
                    published=published.outputs["published"],
                    events=tables["events"],
                ),
                memory="4Gi",
            )
            answered.set_display_name("Smoke test release").set_caching_options(False)

            report = place(
                write_report(
                    name=name,
                    lineage=lineage,
                    validation=valid.outputs["report"],
                    drift=looked.outputs["report"],
                    model=model,
                    evaluation=evaluated.outputs["report"],
                    compressed=compressed,
                    parity=proven.outputs["report"],
                    judgement=judged.outputs["report"],
                    published=published.outputs["published"],
                    smoke=answered.outputs["answers"],
                )
            )
            report.set_display_name("Write report").set_caching_options(False)

            with dsl.If(roll_out == True, name="roll-out"):  # noqa: E712 - KFP's own comparison
                moved = placement.place_rollout(
                    roll_out_release(
                        name=name,
                        data=data,
                        feature_store=feature_store,
                        release=release,
                        rollout=rollout,
                        gateway=gateway,
                        serving=serving,
                        published=published.outputs["published"],
                    )
                )
                moved.set_display_name("Roll out release").after(report).set_caching_options(False)
        return looked.outputs["report"]

    return recommender
