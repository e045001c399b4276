"""One replica without Ray: a bundle, its engine, and what a request becomes on them."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch

from raydiance.config.platform import ServeSpec
from raydiance.errors import RequestError
from raydiance.generation import load_bundle, noise_generator
from raydiance.generation.execution import agreeing_sizes, call_sizes, noise_network
from raydiance.serving.answers import Answer, Piece, finish, pack
from raydiance.serving.engine import Engine
from raydiance.serving.orders import Order, Ticket, Timing
from raydiance.serving.problems import NotReadyError, ServingError, UnprocessableError
from raydiance.serving.schema import Format, ModelInfo, PlanInfo, SampleRequest
from raydiance.storage import Artifact

__all__ = ["Description", "Sampler"]


@dataclass(frozen=True)
class Description:
    """What the replica serves, and how many samples wait, run and are being finished on it."""

    model: ModelInfo
    plans: list[PlanInfo]
    load: dict[str, int]


class Sampler:
    """Answers sample requests from one bundle; `sample` is safe to call many times at once on one event
    loop.
    """

    def __init__(self, artifact: Artifact, spec: ServeSpec, device: torch.device | str | None = None) -> None:
        torch.set_num_threads(spec.threads)
        device = torch.device(device or ("cuda" if spec.gpus_per_replica else "cpu"))
        self.bundle = load_bundle(artifact, device)
        self._created = artifact.manifest.created
        self._predict = noise_network(self.bundle)
        sizes, network_s = self._measure(call_sizes(device))
        self.engine = Engine(
            self._predict,
            self.bundle.latent_shape,
            sizes=sizes,
            slots=max(spec.slots, sizes[-1]),
            queue=spec.queue,
            finishers=spec.finishers,
            device=device,
            network_s=network_s,
        )
        self.engine.__enter__()

    def _measure(self, sizes: tuple[int, ...]) -> tuple[tuple[int, ...], float]:
        """Those of the sizes that give the same bits, and the seconds of the largest call (all warmed up)."""
        device, generator = self.bundle.device, torch.Generator().manual_seed(0)
        x = torch.randn(sizes[-1], *self.bundle.latent_shape, generator=generator).to(device)
        sigma = torch.logspace(-1, 1, sizes[-1]).to(device)
        labels = None
        if self.bundle.spec.denoiser.num_classes:
            labels = torch.zeros(sizes[-1], dtype=torch.long, device=device)
        sizes = agreeing_sizes(self._predict, sizes, x, sigma, labels)
        inputs = [None if each is None else each[: sizes[-1]] for each in (x, sigma, labels)]
        began = time.perf_counter()
        with torch.inference_mode():
            self._predict(*inputs).cpu()  # type: ignore[arg-type]
        return sizes, time.perf_counter() - began

    def warm_up(self) -> None:
        """Make one mesh, so that whatever compiles on first use has been compiled."""
        plan = min(self.bundle.plans, key=lambda name: self.bundle.plans[name].nfe)
        request = SampleRequest(seed=0, plan=plan, size=32, views=1)
        for form in (Format.glb, Format.png):
            with suppress(ServingError):  # an empty sample is no reason not to serve the others
                self._submit(request, form, 0).future.result()

    async def sample(self, request: SampleRequest, form: Format) -> Answer:
        """The answer to a request. Raises ServingError; if the caller gives up, the places are free at the
        next tick.
        """
        tickets: list[Ticket[Piece]] = []
        try:
            tickets.extend(self._submit(request, form, seed) for seed in request.all_seeds)
            results = await asyncio.gather(*(asyncio.wrap_future(ticket.future) for ticket in tickets))
        except BaseException:
            for ticket in tickets:
                ticket.cancel()
            raise
        answer = await asyncio.to_thread(pack, self.bundle, request, form, [piece for piece, _ in results])
        answer.headers["Server-Timing"] = _server_timing([timing for _, timing in results])
        return answer

    def describe(self) -> Description:
        """The bundle and its plans, with the network time that each takes alone."""
        bundle, default = self.bundle, self.bundle.spec.default_plan
        model = ModelInfo(
            name=bundle.ref.key.rsplit("/", 1)[-1],
            bundle=bundle.ref.key,
            bundle_sha256=bundle.ref.sha256,
            created=self._created,
            code_version=bundle.code_version,
            latent_shape=list(bundle.latent_shape),
            plans=sorted(bundle.plans),
            default_plan=default,
            categories=list(bundle.spec.categories) if bundle.spec.denoiser.num_classes else [],
        )
        plans = [
            PlanInfo(
                name=name,
                solver=plan.name,
                nfe=plan.nfe,
                order=plan.order,
                stochastic=plan.is_stochastic,
                default=name == default,
                estimate_ms=round(plan.nfe * self.engine.tick_s * 1e3, 1),
            )
            for name, plan in sorted(bundle.plans.items(), key=lambda pair: pair[1].nfe)
        ]
        return Description(model, plans, self.engine.load)

    def check(self) -> None:
        """Raise NotReadyError if the engine has stopped."""
        if not self.engine.is_alive:
            raise NotReadyError("the engine's thread has ended")

    def close(self, drain_s: float = 0.0) -> None:
        """Finish what is under way for up to `drain_s`, then stop."""
        self.engine.drain(drain_s)
        self.engine.close()

    def _submit(self, request: SampleRequest, form: Format, seed: int) -> Ticket[Piece]:
        try:
            plan, label = self.bundle.plan(request.plan_name), self.bundle.label(request.category)
        except RequestError as error:
            raise UnprocessableError(str(error)) from error
        generator = noise_generator(seed)
        order = Order(
            plan,
            torch.randn(self.bundle.latent_shape, generator=generator),
            finish=partial(finish, self.bundle, request, form, seed),
            generator=generator,
            label=label,
            priority=request.priority,
            deadline_s=None if request.deadline_ms is None else request.deadline_ms / 1e3,
        )
        return self.engine.submit(order)


def _server_timing(timings: list[Timing]) -> str:
    """Milliseconds of the slowest seed, as browsers show them (Server-Timing)."""
    parts = {
        "queue": max(timing.queue_s for timing in timings),
        "sample": max(timing.sample_s for timing in timings),
        "finish": max(timing.finish_s for timing in timings),
    }
    return ", ".join(f"{name};dur={seconds * 1e3:.1f}" for name, seconds in parts.items())
