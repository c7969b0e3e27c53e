"""`TrainingClient`: one LoRA run: forward, backward, optimizer steps, saving and loading.

Commands run in the order in which they are called, whoever awaits what: a whole step can be submitted before
the first result is looked at. Losses are plain sums over tokens and sequences; gradients add up over calls
until `optim_step`. A command that fails leaves the run as it was, and those behind it run.

Axes: N input tokens of a datum, K targets at one position.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from rekindle import batches
from rekindle.commands import Command, Commands
from rekindle.errors import RequestFailed
from rekindle.futures import Future, Progress
from rekindle.inputs import AdamParams, Datum, build
from rekindle.sampling import SamplingClient, open_sampler
from rekindle.session import Session
from rekindle.tokenizers import Tokenizer, load_tokenizer
from rekindle.transfers import OnProgress, download_export
from rekindle.transport import PROTOBUF
from rekindle.types import (
    CreateModelRequest,
    ForwardBackwardOutput,
    ForwardBackwardRequest,
    GetInfoRequest,
    GetInfoResponse,
    InvalidField,
    LoadWeightsRequest,
    LoadWeightsResponse,
    OptimStepRequest,
    OptimStepResponse,
    SaveWeightsExternalRequest,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerRequest,
    SaveWeightsForSamplerResponse,
    SaveWeightsRequest,
    SaveWeightsResponse,
    UntypedFuture,
    decode_forward_backward_output,
    encode_forward_backward,
    find_loss,
)

LossConfig = Mapping[str, float | str]
R = TypeVar("R", bound=BaseModel)
_exports = itertools.count()


class TrainingClient:
    """One training run. Made by `ServiceClient.create_lora_training_client` and its like."""

    def __init__(self, session: Session, info: GetInfoResponse) -> None:
        self.info = info
        """What the run was when this client was made."""
        self._session = session
        self._commands = Commands(session)

    @property
    def model_id(self) -> str:
        """The run's id, `<session>:train:<number>`."""
        return self.info.model_id

    # ---- Training ----

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str, loss_fn_config: LossConfig | None = None
    ) -> Future[ForwardBackwardOutput]:
        """Add the gradient of the summed loss over `data`.

        loss_fn: `cross_entropy`, `importance_sampling`, `ppo`; `rekindle.types.LOSSES` says what each takes.
        The result has, datum by datum, `logprobs` in the shape of its targets ((N,) or (N, K), float32), and
        metrics, `loss:sum` among them; with `{"entropy": 1}` in `loss_fn_config` also `entropy` and
        `entropy_variance`, (N,) each: mean and variance of -log p over the vocabulary at each position.
        Large batches travel in several parts and come back as one.

        Raises:
            InvalidField: at once, for data that are no arrays, an empty batch or an unknown loss.
            RequestFailed: from the future, for what the server finds wrong in them.
        """
        return self._pass(data, loss_fn, loss_fn_config, forward_only=False)

    def forward(
        self, data: Sequence[Datum], loss_fn: str, loss_fn_config: LossConfig | None = None
    ) -> Future[ForwardBackwardOutput]:
        """The outputs of `forward_backward` without a gradient."""
        return self._pass(data, loss_fn, loss_fn_config, forward_only=True)

    def _pass(
        self, data: Sequence[Datum], loss_fn: str, config: LossConfig | None, forward_only: bool
    ) -> Future[ForwardBackwardOutput]:
        find_loss(loss_fn)
        if not data:
            raise InvalidField("data", "empty, expected at least one datum")
        wire = [datum.to_wire(index) for index, datum in enumerate(data)]
        wishes = self._session.config

        def command(part: list[Any], number: int) -> Command:
            request = ForwardBackwardRequest(
                self.model_id, number, part, loss_fn, dict(config or {}), forward_only
            )
            return Command("/forward_backward", encode_forward_backward(request), PROTOBUF)

        parts = batches.split(wire, wishes.fwdbwd_max_chunk_len, wishes.fwdbwd_max_chunk_bytes_count)
        return self._commands.submit_parts(
            [partial(command, part) for part in parts],
            PROTOBUF,
            lambda results: batches.join([decode_forward_backward_output(result) for result in results]),
        )

    def optim_step(self, adam_params: AdamParams | None = None) -> Future[OptimStepResponse]:
        """Apply the accumulated gradient once with AdamW and clear it; None for the default parameters."""
        params = adam_params or AdamParams()
        return self._submit(OptimStepResponse, "/optim_step", OptimStepRequest, adam_params=params)

    # ---- Saving and loading ----

    def save_state(
        self,
        name: str | None = None,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        user_metadata: Mapping[str, str] | None = None,
    ) -> Future[SaveWeightsResponse]:
        """Save adapter, optimizer moments and step count; the result's `path` resumes training anywhere.

        name: 1 to 128 letters, digits, `.`, `_`, `-`; None: the command's number. ttl_seconds: from one hour
        to ten years, None for ever. overwrite: replace a checkpoint of that name, whose files go a day later, instead
        of failing.
        """
        return self._submit(
            SaveWeightsResponse,
            "/save_weights",
            SaveWeightsRequest,
            path=name,
            ttl_seconds=ttl_seconds,
            overwrite=overwrite,
            user_metadata=user_metadata,
        )

    def load_state(self, path: str) -> Future[LoadWeightsResponse]:
        """Replace the weights by those of a checkpoint of the same shape; the optimizer starts fresh."""
        return self._load(path, optimizer=False)

    def load_state_with_optimizer(self, path: str) -> Future[LoadWeightsResponse]:
        """Replace weights, optimizer moments and step count by those of a checkpoint."""
        return self._load(path, optimizer=True)

    def _load(self, path: str, optimizer: bool) -> Future[LoadWeightsResponse]:
        return self._submit(
            LoadWeightsResponse, "/load_weights", LoadWeightsRequest, path=path, optimizer=optimizer
        )

    def save_weights_for_sampler(
        self, name: str, ttl_seconds: int | None = None, user_metadata: Mapping[str, str] | None = None
    ) -> Future[SaveWeightsForSamplerResponse]:
        """Save the adapter alone under a name; the result's `path` goes to `create_sampling_client`."""
        return self._submit(
            SaveWeightsForSamplerResponse,
            "/save_weights_for_sampler",
            SaveWeightsForSamplerRequest,
            path=name,
            ttl_seconds=ttl_seconds,
            user_metadata=user_metadata,
        )

    def save_weights_and_get_sampling_client(
        self, kind: Literal["snapshot", "inflight"] = "snapshot"
    ) -> Future[SamplingClient]:
        """A sampler of the weights as they are after all commands so far; it goes with the session.

        `inflight`: all such samplers of the run move on to the newest weights together.
        """
        number = next(self._session.sampler_numbers)
        saved = self._submit(
            SaveWeightsForSamplerResponse,
            "/save_weights_for_sampler",
            SaveWeightsForSamplerRequest,
            sampling_session_seq_id=number,
            kind=kind,
        )
        return self._session.future(lambda progress: self._sampler(saved, progress))

    async def _sampler(
        self, saved: Future[SaveWeightsForSamplerResponse], progress: Progress
    ) -> SamplingClient:
        sampler_id = (await saved).sampling_session_id
        progress.request_id = saved.request_id
        if sampler_id is None:
            raise InvalidField("sampling_session_id", "missing in the answer")
        return SamplingClient(self._session, sampler_id, self._base_model, self._tokenizer)

    def create_sampling_client(self, model_path: str) -> Future[SamplingClient]:
        """A sampler of a checkpoint, `tinker://<run>/<kind>/<name>`."""
        number = next(self._session.sampler_numbers)
        return self._session.future(lambda _: open_sampler(self._session, number, None, model_path))

    def save_weights_external(
        self, name: str, ttl_seconds: int | None = None
    ) -> Future[SaveWeightsExternalResponse]:
        """Save the adapter as files for other tools, in PEFT's format, to be downloaded by `path`."""
        return self._submit(
            SaveWeightsExternalResponse,
            "/save_weights_external",
            SaveWeightsExternalRequest,
            path=name,
            ttl_seconds=ttl_seconds,
        )

    def download(
        self, folder: str | Path, name: str | None = None, progress: OnProgress | None = None
    ) -> Future[list[Path]]:
        """Export the weights as they are after all commands so far, in PEFT's format, into `folder`.

        name: keeps the export on the server under it; None: a name of its own, for an hour. Returns the files.
        """
        kept = name or f"download-{next(_exports)}-{id(self):x}"
        saved = self.save_weights_external(kept, None if name else 3600)

        async def fetch(_: Progress) -> list[Path]:
            return await download_export(self._session.transport, (await saved).path, Path(folder), progress)

        return self._session.future(fetch)

    # ---- About ----

    def get_info(self) -> Future[GetInfoResponse]:
        """Base model, rank and optimizer of the run."""
        return self._session.future(lambda _: fetch_info(self._session, self.model_id))

    def get_tokenizer(self) -> Tokenizer:
        """The base model's tokenizer (blocks while it is loaded). Raises ImportError without transformers."""
        return load_tokenizer(self._tokenizer)

    @property
    def _base_model(self) -> str:
        return self.info.model_data.model_name or self.info.model_name or ""

    @property
    def _tokenizer(self) -> str:
        return self.info.model_data.tokenizer_id or self._base_model

    def _submit(
        self, result: type[R], path: str, request: Callable[..., BaseModel], /, **fields: Any
    ) -> Future[R]:
        """One numbered command. Raises InvalidField for a wrong argument, which takes no number."""

        def make(number: int) -> tuple[str, BaseModel]:
            return path, build(request, model_id=self.model_id, seq_id=number, **fields)

        return self._commands.submit(result, make)


async def fetch_info(session: Session, model_id: str) -> GetInfoResponse:
    """What the server says of a run."""
    body = GetInfoRequest(model_id=model_id)
    return await session.transport.ask(GetInfoResponse, "POST", "/get_info", body=body)


async def create_run(session: Session, number: int, progress: Progress, **fields: Any) -> TrainingClient:
    """A new run with a fresh adapter; `fields` are those of `CreateModelRequest`."""
    return await _begin(session, "/create_model", CreateModelRequest, number, progress, fields)


async def create_run_from(session: Session, number: int, progress: Progress, **fields: Any) -> TrainingClient:
    """A new run that goes on from a checkpoint; `fields` are those of `LoadWeightsRequest`."""
    return await _begin(session, "/load_weights", LoadWeightsRequest, number, progress, fields)


async def _begin(
    session: Session,
    path: str,
    request: Callable[..., BaseModel],
    number: int,
    progress: Progress,
    fields: Mapping[str, Any],
) -> TrainingClient:
    session_id = await session.id()
    body = build(request, session_id=session_id, model_seq_id=number, **fields)
    accepted = await session.transport.ask(UntypedFuture, "POST", path, body=body)
    await session.poller.wait(accepted.request_id, progress)
    if accepted.model_id is None:
        raise RequestFailed("model_id: missing in the answer", "server", accepted.request_id)
    return TrainingClient(session, await fetch_info(session, accepted.model_id))
