"""The same door in Ray Serve, for who outgrows one machine: replicas behind Ray's proxies, more as requests queue.

    serve run client.serving.cluster:build bundles=/models/release tokens=/secrets/tokens.toml most=8

Needs `pip install 'collegium[ray]'`. A replica is one process with one model; Ray starts another when more requests
than `ongoing` wait at each, and stops it when they have gone. Metrics are each replica's own; Ray has some of all.
"""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from client.serving.settings import Precision, Settings, named

UPSCALE_SECONDS = 3.0
"""How long more requests than that must wait before another replica is started."""


class Options(BaseModel):
    """What `serve run` is told, as `key=value`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    bundles: str
    """As `collegium serve` takes them, with commas between them; every machine must have them at the same place."""
    tokens: Path
    """A file of tokens, on every machine."""
    key: Path | None = None
    """The coordinator's public release key."""
    mask: Path | None = None
    """What replaces personal data in requests, on every machine."""
    least: Annotated[int, Field(ge=1)] = 1
    """Replicas when nobody asks."""
    most: Annotated[int, Field(ge=1)] = 4
    """Replicas at most."""
    ongoing: Annotated[float, Field(gt=0)] = 16.0
    """Requests of a replica, waiting or computed, above which another one is started."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Cores of each replica."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each replica; with any, it computes there."""
    precision: Precision = "auto"
    queue: Annotated[int, Field(ge=1)] = 1024
    deadline: Annotated[float, Field(gt=0)] = 30.0


def build(options: Options) -> Any:
    """The `ray.serve.Application` that `serve run` deploys; a replica loads its model when it starts."""
    serve = import_module("ray.serve")

    settings = Settings(
        named(options.bundles.split(",")),
        tokens=options.tokens,
        key=options.key,
        mask=options.mask,
        precision=options.precision,
        device="cuda" if options.gpus else "cpu",
        threads=options.threads,
        queue=options.queue,
        deadline=options.deadline,
        workers=options.most,  # among which rates are divided, whether all run or not
    )
    scaling = {
        "min_replicas": options.least,
        "max_replicas": options.most,
        "target_ongoing_requests": options.ongoing,
        "upscale_delay_s": UPSCALE_SECONDS,
        "metrics_interval_s": 1.0,
    }

    def door() -> Any:
        from client.serving.app import make_app
        from client.serving.service import Service

        return make_app(Service(settings))

    deployment: Any = serve.deployment(
        name="collegium",
        autoscaling_config=scaling,
        max_ongoing_requests=options.queue,
        ray_actor_options={"num_cpus": options.threads, "num_gpus": options.gpus},
    )(serve.ingress(door)())
    return deployment.bind()
