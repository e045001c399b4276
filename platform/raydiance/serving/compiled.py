"""The network as programs that torch.compile writes: one for each number of items in a call, none in a request.

A program is written at the first call of its size, which a replica makes before it is ready. What the network is
asked is copied into tensors that stay: so a program never meets an input of another kind, which it would be
written anew for, and on a GPU it is one CUDA graph. Programs round otherwise than the library's kernels do, so
samples tell that they were made by them. What was written is kept for the next replica in a folder of the user's
own, one for each kind of processor; nothing that is run comes from a store, and nothing runs that does not come to
what the network comes to.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from raydiance.errors import ConfigError
from raydiance.generation import LatentModel
from raydiance.generation.execution import noise_network
from raydiance.models.text import NO_WORD
from raydiance.storage.cache import PROGRAMS, keep_programs

__all__ = ["CompiledNetwork"]

Program = Callable[[], Tensor]
WARM_UPS = 2  # in which Triton's kernels are chosen, before a graph is captured
WRONG = 0.01  # a program that is so far off, beside the length of what the network gives, does not only round


class CompiledNetwork:
    """The noise network of a model, compiled; as `noise_network` has it, but not for two threads at once.

    Raises ConfigError at the first call of a size if it cannot be compiled, or comes to something else.
    """

    def __init__(self, model: LatentModel) -> None:
        self._model = model
        self._network = noise_network(model)
        self._programs: dict[int, tuple[tuple[Tensor | None, ...], Program]] = {}

    @property
    def facts(self) -> dict[str, str]:
        """What a sample says of it: the torch that wrote the programs, and so how they round."""
        return {"compiled": str(torch.__version__)}

    @torch.inference_mode()
    def __call__(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None, tokens: Tensor | None = None, /
    ) -> Tensor:
        if len(x) not in self._programs:
            inputs = self._inputs(len(x))
            self._programs[len(x)] = inputs, self._written(inputs)
        inputs, program = self._programs[len(x)]
        blanks = (None, None, self._model.spec.denoiser.num_classes, NO_WORD)
        for held, given, blank in zip(inputs, (x, sigma, labels, tokens), blanks, strict=True):
            if held is not None:
                held.copy_(given) if given is not None else held.fill_(blank)  # type: ignore[arg-type]
        return program()

    def _inputs(self, size: int) -> tuple[Tensor | None, ...]:
        """Where x, sigma, labels and words are held; the last two are None for a network that has none."""
        spec, device = self._model.spec.denoiser, self._model.device
        noise = torch.randn(size, *self._model.latent_shape, generator=torch.Generator().manual_seed(0))
        x = noise.to(device)
        sigma = torch.ones(size, device=device)
        labels = torch.full((size,), spec.num_classes, device=device) if spec.num_classes else None
        words = torch.full((size, spec.max_words), NO_WORD, device=device) if spec.vocabulary else None
        return x, sigma, labels, words

    def _written(self, inputs: tuple[Tensor | None, ...]) -> Program:
        network = self._network

        def predict(x: Tensor, sigma: Tensor, labels: Tensor | None, tokens: Tensor | None) -> Tensor:
            return network(x, sigma, labels, tokens)

        # torch keeps programs by code object, and counts them: with one of its own this one goes with its bundle
        predict.__code__ = predict.__code__.replace()
        write: Any = torch.compile  # its types do not know the limit yet
        try:
            keep_programs()
            os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # worker processes would stay
            written = write(
                predict,
                fullgraph=True,
                dynamic=False,
                recompile_limit=1,  # an input of another kind is an error, not a wait
                options={"deterministic": True},  # nothing is chosen by a stop watch: replicas agree
            )
            program: Program = partial(written, *inputs)
            program()
            program = _captured(program) if self._model.device.type == "cuda" else program
            made, expected = program(), network(*inputs)  # type: ignore[arg-type]
        except (RuntimeError, OSError) as error:  # what Dynamo, Inductor and Triton raise are RuntimeErrors
            cause = getattr(error, "inner_exception", error)
            reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
            raise ConfigError(
                f"serve.compile=true: the network cannot be compiled here ({reason}); it takes a C++ compiler "
                "(g++, or what CXX names) and a folder to write in (RAYDIANCE_CACHE, TORCHINDUCTOR_CACHE_DIR), or "
                "leave serve.compile out"
            ) from error
        if not (made - expected).norm() <= WRONG * expected.norm() + 1e-6:  # or NaN
            raise ConfigError(
                f"serve.compile=true: the program for {len(made)} items does not come to what the network "
                f"comes to; remove {os.environ[PROGRAMS]}, or leave serve.compile out"
            )
        return program


def _captured(program: Program) -> Program:
    """The program as one CUDA graph, which any thread may replay. Bundles may be loaded beside it."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            program()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        held = program()

    def replay() -> Tensor:
        graph.replay()
        return held.clone()  # the next call overwrites it

    return replay
