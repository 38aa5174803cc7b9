"""Send the compiled pipeline to a Kubeflow Pipelines endpoint: once, or again and again."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import kfp

from leanrec.errors import ConfigError, ServingError


def submit_pipeline(
    package: Path,
    arguments: dict[str, Any],
    *,
    endpoint: str,
    experiment: str,
    run: str,
    namespace: str | None = None,
    token: str | None = None,
    cron: str | None = None,
) -> dict[str, str]:
    """Start a run, or with `cron` (six fields, seconds first) a recurring run; its id and page.

    Args:
        package: The compiled pipeline.
        arguments: The pipeline's arguments.
        endpoint: The KFP endpoint, such as http://localhost:8080.
        experiment: KFP experiment that the run belongs to; made when it is not there.
        run: Name of the run.
        namespace: Profile namespace of a multi-user Kubeflow.
        token: Bearer token, where the endpoint asks for one.
        cron: When to run again; None runs once, now.

    Raises:
        ConfigError: The cron expression has not six fields.
        ServingError: The endpoint does not answer or refuses.
    """
    if cron is not None and len(cron.split()) != 6:
        raise ConfigError(
            f"cron {cron!r}: KFP wants six fields, seconds first; '0 0 3 * * *' is every night at three"
        )
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the client chats on standard output
            return _send(
                kfp.Client(host=endpoint, namespace=namespace or "kubeflow", existing_token=token),
                package,
                arguments,
                endpoint=endpoint,
                experiment=experiment,
                run=run,
                namespace=namespace,
                cron=cron,
            )
    except Exception as error:  # the client raises whatever its transport does
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ServingError(
            f"{endpoint}: the KFP endpoint did not take the run ({reason}); "
            "check the address, `kubectl port-forward`, and the token in LEANREC_KFP_TOKEN"
        ) from error


def _send(
    client: kfp.Client,
    package: Path,
    arguments: dict[str, Any],
    *,
    endpoint: str,
    experiment: str,
    run: str,
    namespace: str | None,
    cron: str | None,
) -> dict[str, str]:
    if cron is None:
        started = client.create_run_from_pipeline_package(
            str(package),
            arguments=arguments,
            run_name=run,
            experiment_name=experiment,
            namespace=namespace,
        )
        return {"run_id": started.run_id, "page": f"{endpoint}/#/runs/details/{started.run_id}"}
    group = client.create_experiment(experiment, namespace=namespace)
    recurring = client.create_recurring_run(
        experiment_id=group.experiment_id,
        job_name=run,
        pipeline_package_path=str(package),
        params=arguments,
        cron_expression=cron,
        max_concurrency=1,
        no_catchup=True,
    )
    found = recurring.recurring_run_id
    return {"recurring_run_id": found, "page": f"{endpoint}/#/recurringrun/details/{found}"}
