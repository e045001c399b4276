"""HTTP in front of the replicas on Ray Serve. It holds no model and imports no torch, so that one that was lost is
back soon.
"""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import serve as ray_serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from raydiance.config.platform import ServeSpec
from raydiance.serving.app import build_app
from raydiance.serving.bundles import Catalogue
from raydiance.serving.keys import ApiKey, KeyRing
from raydiance.serving.listening import only_on_loopback
from raydiance.serving.messages import Answer, Description, Step
from raydiance.serving.problems import NotReadyError, OverloadError, ServingError
from raydiance.serving.routing import Router
from raydiance.serving.schema import Format, Link, ModelInfo, SampleRequest
from raydiance.storage import ArtifactRef

__all__ = ["APPLICATION", "Gateway"]

APPLICATION = "raydiance"
# a replica that dies takes its requests with it; they are asked again, and answer the same bytes
ATTEMPTS = 3


class Gateway:
    """Limits, keys, retries, and which bundle answers."""

    def __init__(
        self,
        spec: ServeSpec,
        keys: Sequence[ApiKey],
        catalogue: Catalogue,
        replicas: DeploymentHandle[Any] | None = None,
    ) -> None:
        only_on_loopback()
        pool = _Replicas(replicas or ray_serve.get_deployment_handle("replica", APPLICATION))
        self._router = Router(pool, spec, catalogue)
        self._spec = spec
        self._keys = KeyRing(keys, None if spec.keys is None else Path(spec.keys))

    def __serve_build_asgi_app__(self) -> object:
        return build_app(self._router, self._spec, self._keys)

    async def adopt(self, catalogue: Catalogue) -> None:
        """Serve these bundles beside the one for all."""
        self._router.adopt(catalogue)

    async def close(self) -> None:
        """Answer what is under way, and refuse what comes."""
        await self._router.close(self._spec.drain_timeout_s)


class _Replicas:
    """The replicas behind a handle, as a `Pool`."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def sample(
        self, bundle: ArtifactRef | None, request: SampleRequest, form: Format, client: str
    ) -> Answer:
        answer: Answer = await self._ask("sample", bundle, request, form, client)
        return answer

    async def stream(
        self, bundle: ArtifactRef | None, request: SampleRequest, form: Format, client: str, previews: bool
    ) -> AsyncGenerator[Step | Answer]:
        for _ in range(ATTEMPTS):
            handle = self._handle.options(stream=True)
            with _told():
                asked: Any = handle.stream.remote(bundle, request, form, client, previews)
                try:
                    async for event in asked:
                        if isinstance(event, ServingError):
                            raise event
                        yield event
                    return
                except RayActorError:
                    continue  # the steps begin anew, and lead to the same bytes
                finally:
                    asked.cancel()
        raise _lost()

    async def describe(self, bundle: ArtifactRef | None) -> Description:
        description: Description = await self._ask("describe", bundle)
        return description

    async def models(self, bundles: tuple[ArtifactRef, ...]) -> list[ModelInfo]:
        models: list[ModelInfo] = await self._ask("models", bundles)
        return models

    async def lineage(self, bundle: ArtifactRef | None) -> list[Link]:
        links: list[Link] = await self._ask("lineage", bundle)
        return links

    async def _ask(self, method: str, *arguments: object) -> Any:
        for _ in range(ATTEMPTS):
            with _told():
                try:
                    answer = await getattr(self._handle, method).remote(*arguments)
                except RayActorError:
                    continue
                if isinstance(answer, ServingError):
                    raise answer
                return answer
        raise _lost()


@contextmanager
def _told() -> Iterator[None]:
    """Serve's refusals as ours."""
    try:
        yield
    except BackPressureError as error:
        raise OverloadError(
            "all replicas are busy and their queues are full; try again later", 2.0
        ) from error
    except DeploymentUnavailableError as error:
        raise NotReadyError("no replica is up; it is being started again", 5.0) from error


def _lost() -> NotReadyError:
    return NotReadyError(f"the replica was lost {ATTEMPTS} times while it worked on this request", 5.0)
