"""One replica without Ray: a bundle, its engine, and what a request becomes on them."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from raydiance.config.platform import ServeSpec
from raydiance.errors import RequestError
from raydiance.generation import load_bundle, noise_generator
from raydiance.generation.bundle import MAX_STEPS, STEPPED, BundleSpec
from raydiance.generation.execution import NoiseNetwork, agreeing_sizes, call_sizes, noise_network
from raydiance.serving.answers import Piece, finish, pack
from raydiance.serving.compiled import CompiledNetwork
from raydiance.serving.engine import Engine
from raydiance.serving.messages import Answer, Description, Step
from raydiance.serving.orders import Known, Order, Progress, Ticket, Timing
from raydiance.serving.places import most_of
from raydiance.serving.previews import preview
from raydiance.serving.problems import NotReadyError, ServingError, UnprocessableError
from raydiance.serving.schema import Format, ModelInfo, PlanInfo, Quality, SampleRequest, SolverInfo
from raydiance.serving.studio import Studio, Work
from raydiance.serving.uploads import CompletionRequest, ReconstructionRequest
from raydiance.storage import Artifact

__all__ = ["Sampler", "model_info"]


PREVIEW_PAUSE_S = 0.25  # between two previews of one request
WORDS_TOLD = 512


class Sampler:
    """Answers sample requests from one bundle; `sample` and `stream` may run many times at once on one event
    loop.
    """

    def __init__(
        self,
        artifact: Artifact,
        spec: ServeSpec,
        device: torch.device | str | None = None,
    ) -> None:
        torch.set_num_threads(spec.threads)
        device = torch.device(device or ("cuda" if spec.gpus_per_replica else "cpu"))
        self.bundle = load_bundle(artifact, device)
        self._info = model_info(artifact, self.bundle.spec)
        self._max_nfe = spec.max_nfe
        networks = (self.bundle.decoder, self.bundle.denoiser)
        self.weight_bytes = sum(each.nbytes for net in networks for each in net.state_dict().values())
        self._predict: NoiseNetwork = noise_network(self.bundle)
        self._how: Mapping[str, str] = {}
        if spec.compile:
            self._predict = CompiledNetwork(self.bundle)
            self._how = self._predict.facts
        sizes, network_s = self._measure(call_sizes(device))
        slots = max(spec.slots, sizes[-1])
        self.engine = Engine(
            self._predict,
            self.bundle.latent_shape,
            sizes=sizes,
            slots=slots,
            queue=max(0, most_of(spec) - slots),  # of all replicas: one that is left alone takes it all on
            finishers=spec.finishers,
            device=device,
            network_s=network_s,
            no_label=self.bundle.spec.denoiser.num_classes,
        )
        self.studio = Studio(self.bundle, spec.max_upload_bytes)
        self.engine.__enter__()

    def _measure(self, sizes: tuple[int, ...]) -> tuple[tuple[int, ...], float]:
        """Those of the sizes that give the same bits, and the seconds of the largest call (all warmed up)."""
        device, generator = self.bundle.device, torch.Generator().manual_seed(0)
        x = torch.randn(sizes[-1], *self.bundle.latent_shape, generator=generator).to(device)
        sigma = torch.logspace(-1, 1, sizes[-1]).to(device)
        labels, words, spec = None, None, self.bundle.spec.denoiser
        if spec.num_classes:
            labels = torch.zeros(sizes[-1], dtype=torch.long, device=device)
        if spec.vocabulary:
            shape = (sizes[-1], spec.max_words)
            words = torch.randint(spec.vocabulary, shape, generator=generator).to(device)
        sizes = agreeing_sizes(self._predict, sizes, x, sigma, labels, words)
        inputs = [None if each is None else each[: sizes[-1]] for each in (x, sigma, labels, words)]
        with torch.inference_mode():
            self._predict(*inputs).cpu()  # type: ignore[arg-type]  # a size of 1 was not called yet
            began = time.perf_counter()
            self._predict(*inputs).cpu()  # type: ignore[arg-type]
        return sizes, time.perf_counter() - began

    def warm_up(self) -> None:
        """Make one mesh, so that whatever compiles on first use has been compiled."""
        plan = min(self.bundle.plans, key=lambda name: self.bundle.plans[name].nfe)
        request = SampleRequest(seed=0, plan=plan, size=32, views=1)
        preview(self.bundle, torch.zeros(self.bundle.latent_shape, device=self.bundle.device))
        for form in (Format.glb, Format.png):
            with suppress(ServingError):  # an empty sample is no reason not to serve the others
                self._submit(request, form, 0).future.result()

    async def sample(self, request: SampleRequest, form: Format, client: str = "") -> Answer:
        """The answer to a request. Raises ServingError; if the caller gives up, the places are free at the
        next tick.
        """
        async with aclosing(self.stream(request, form, client, previews=False)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return event
        raise AssertionError("a stream ends with its answer")

    async def stream(
        self, request: SampleRequest, form: Format, client: str = "", *, previews: bool = True
    ) -> AsyncGenerator[Step | Answer]:
        """Steps with previews as they come, then the answer; close it to give the request up."""
        request = self.resolve(request)
        known = await self._known(request)
        news: asyncio.Queue[tuple[int, Progress]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def watch(seed: int, progress: Progress) -> None:
            loop.call_soon_threadsafe(news.put_nowait, (seed, progress))

        tickets: list[Ticket[Piece] | Work[tuple[Piece, Timing]]] = []
        try:
            tickets.extend(
                self._submit(request, form, seed, client, partial(watch, seed) if previews else None, known)
                for seed in request.all_seeds
            )
            done = asyncio.gather(*(asyncio.wrap_future(ticket.future) for ticket in tickets))
            if previews:
                async for step in self._steps(news, done):
                    yield step
            results = await done
        finally:
            for ticket in tickets:
                ticket.cancel()
        pieces = [piece for piece, _ in results]
        answer = await asyncio.to_thread(pack, self.bundle, request, form, pieces, self._how_of(request))
        answer.headers["Server-Timing"] = _server_timing([timing for _, timing in results])
        yield answer

    async def _steps(
        self, news: "asyncio.Queue[tuple[int, Progress]]", done: "asyncio.Future[Any]"
    ) -> AsyncGenerator[Step]:
        """The newest step of each seed, with a preview now and then while the samples are not done."""
        shown: dict[int, float] = {}
        while not (done.done() and news.empty()):
            waiting = asyncio.ensure_future(news.get())
            await asyncio.wait((waiting, done), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                return
            newest = dict([waiting.result()])
            while not news.empty():
                newest |= dict([news.get_nowait()])
            for seed, progress in newest.items():
                pause_s = time.monotonic() - shown.get(seed, -PREVIEW_PAUSE_S)
                last = progress.row == progress.nfe  # this one stays while the mesh is being made
                picture = b""
                if not done.done() and (last or pause_s >= PREVIEW_PAUSE_S):
                    picture = await asyncio.to_thread(preview, self.bundle, progress.x_0)
                    shown[seed] = time.monotonic()
                yield Step(seed, progress.row, progress.nfe, picture)

    def resolve(self, request: SampleRequest) -> SampleRequest:
        """The request with its plan by name, whichever way it chose it.

        Raises UnprocessableError for a plan, a category or a text that the bundle does not have, for a plan of
        too many calls, and for a budget that no plan can keep.
        """
        name = request.plan_name or self.bundle.spec.default_plan
        if request.quality is not None:
            name = self._of_quality(request.quality)
        elif request.latency_budget_ms is not None:
            name = self._within(request.latency_budget_ms / 1e3)
        try:
            plan = self.bundle.plan(name)
            self.bundle.label(request.category)
            self.bundle.text(request.text)
        except RequestError as error:
            raise UnprocessableError(str(error)) from error
        if plan.nfe > self._max_nfe:
            raise UnprocessableError(f"plan {name}: {plan.nfe} network calls, at most {self._max_nfe} here")
        chosen = {"plan": name, "steps": None, "quality": None, "latency_budget_ms": None}
        return request.model_copy(update=chosen)

    def _front(self) -> list[str]:
        """The bundle's plans, fastest first; those that draw noise only where there is no other."""
        plans = self.bundle.plans
        names = [name for name in plans if not plans[name].is_stochastic] or list(plans)
        return sorted(names, key=lambda name: (plans[name].nfe, name))

    def _of_quality(self, quality: Quality) -> str:
        """The plan that was tuned for it; else the fastest, the default, or the one of the most calls."""
        if quality in self.bundle.plans:
            return quality
        front = self._front()
        return {"draft": front[0], "standard": self.bundle.spec.default_plan, "best": front[-1]}[quality]

    def _within(self, budget_s: float) -> str:
        """The best plan of the front that is expected to be done in time, with what waits and is to be
        finished.
        """
        left = (budget_s - self.engine.backlog_s - self.engine.finish_s) / self.engine.tick_s
        fitting = [name for name in self._front() if self.bundle.plans[name].nfe <= left]
        if fitting:
            return fitting[-1]
        fastest = self._front()[0]
        needed_s = budget_s + (self.bundle.plans[fastest].nfe - left) * self.engine.tick_s
        raise UnprocessableError(
            f"latency_budget_ms {budget_s * 1e3:.0f}: the fastest plan, {fastest}, takes about "
            f"{needed_s * 1e3:.0f} ms here and now"
        )

    def describe(self) -> Description:
        """The bundle and its plans, with the network time that each takes alone."""
        bundle, default = self.bundle, self.bundle.spec.default_plan
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
        solvers = [
            SolverInfo(name=name, max_steps=MAX_STEPS, calls_per_step=2 if name == "heun" else 1)
            for name in STEPPED
        ]
        call_ms = round(self.engine.tick_s * 1e3, 3)
        return Description(self._info, plans, solvers, call_ms, self.engine.load, asdict(self.engine.stats))

    def check(self) -> None:
        """Raise NotReadyError if the engine has stopped."""
        if not self.engine.is_alive:
            raise NotReadyError("the engine's thread has ended")

    def close(self, drain_s: float = 0.0) -> None:
        """Finish what is under way for up to `drain_s`, then stop."""
        self.engine.drain(drain_s)
        self.engine.close()
        self.studio.close()

    def _submit(
        self,
        request: SampleRequest,
        form: Format,
        seed: int,
        client: str = "",
        watch: Callable[[Progress], None] | None = None,
        known: Known | None = None,
    ) -> Ticket[Piece] | Work[tuple[Piece, Timing]]:
        if isinstance(request, ReconstructionRequest):
            return self._rebuild(request, form, seed, watch)
        generator, words = noise_generator(seed), self.bundle.text(request.text)
        order = Order(
            self.bundle.plan(request.plan_name),
            torch.randn(self.bundle.latent_shape, generator=generator),
            finish=partial(finish, self.bundle, request, form, seed, how=self._how_of(request)),
            generator=generator,
            label=self.bundle.label(request.category),
            words=None if words is None else words[0],
            guidance=request.guidance,
            watch=watch,
            priority=request.priority,
            client=client,
            known=known,
            deadline_s=None if request.deadline_ms is None else request.deadline_ms / 1e3,
        )
        return self.engine.submit(order)

    def _how_of(self, request: SampleRequest) -> Mapping[str, str]:
        """What a sample says of the way the network ran; in the studio it is never compiled."""
        return {} if isinstance(request, ReconstructionRequest) else self._how

    async def _known(self, request: SampleRequest) -> Known | None:
        """What a completion keeps."""
        if not isinstance(request, CompletionRequest):
            return None
        work = self.studio.known(request)
        try:
            return await asyncio.wrap_future(work.future)
        finally:
            work.cancel()

    def _rebuild(
        self,
        request: ReconstructionRequest,
        form: Format,
        seed: int,
        watch: Callable[[Progress], None] | None,
    ) -> Work[tuple[Piece, Timing]]:
        asked = time.perf_counter()

        def done(x_0: Tensor) -> tuple[Piece, Timing]:
            sampled = time.perf_counter()
            piece = finish(self.bundle, request, form, seed, x_0, self._how_of(request))
            return piece, Timing(0.0, sampled - asked, time.perf_counter() - sampled)

        return self.studio.rebuild(request, seed, done, watch)


def model_info(artifact: Artifact, spec: BundleSpec) -> ModelInfo:
    """What is told of a bundle."""
    return ModelInfo(
        name=artifact.ref.key.rsplit("/", 1)[-1],
        bundle=artifact.ref.key,
        bundle_sha256=artifact.ref.sha256,
        created=artifact.manifest.created,
        code_version=artifact.manifest.code_version,
        latent_shape=list(spec.decoder.latent_shape),
        plans=sorted(spec.plans),
        default_plan=spec.default_plan,
        categories=list(spec.categories) if spec.denoiser.num_classes else [],
        words=list(spec.words[:WORDS_TOLD]),
    )


def _server_timing(timings: list[Timing]) -> str:
    """Milliseconds of the slowest seed, as browsers show them (Server-Timing)."""
    parts = {
        "queue": max(timing.queue_s for timing in timings),
        "sample": max(timing.sample_s for timing in timings),
        "finish": max(timing.finish_s for timing in timings),
    }
    return ", ".join(f"{name};dur={seconds * 1e3:.1f}" for name, seconds in parts.items())
