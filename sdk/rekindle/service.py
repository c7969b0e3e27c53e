"""`ServiceClient`: where everything starts. One server, one session, and the clients made from it."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rekindle import background
from rekindle.futures import Future, Progress
from rekindle.inputs import build
from rekindle.sampling import SamplingClient, open_sampler
from rekindle.session import Outcome, Session
from rekindle.training import TrainingClient, create_run, create_run_from
from rekindle.transport import FIRST_CONTACT, Transport
from rekindle.types import (
    GetServerCapabilitiesResponse,
    InvalidField,
    LoraConfig,
    ServiceInfo,
    ServicesResponse,
    TinkerPath,
)

if TYPE_CHECKING:
    import httpx

    from rekindle.checkpoints import Checkpoints
    from rekindle.datasets import Datasets
    from rekindle.rewards import Rewards
    from rekindle.rl_runs import RlRuns
    from rekindle.runs import Runs
    from rekindle.triggers import Triggers

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLES = ("REKINDLE_BASE_URL", "TINKER_BASE_URL")
KEY_VARIABLES = ("REKINDLE_API_KEY", "TINKER_API_KEY")
REQUEST_SECONDS = 60.0
ServiceList = list[ServiceInfo]


class ServiceClient:
    """A connection to a Rekindle server.

    base_url: None takes `REKINDLE_BASE_URL`, then `TINKER_BASE_URL`, then a server on this machine. api_key:
    None takes `REKINDLE_API_KEY`, then `TINKER_API_KEY`, and may stay unset where the server wants none.
    timeout: seconds for one HTTP request, not for a command, which may take as long as it takes. first_contact:
    seconds for which a server that has never answered is tried again. user_metadata, tags: of the session, for
    people. transport: another way to the server, for tests.

    Nothing is sent before the first call that needs the server. To be closed when done: `with` or `async with`
    does that, and says whether it ended well.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = REQUEST_SECONDS,
        first_contact: float = FIRST_CONTACT,
        user_metadata: Mapping[str, str] | None = None,
        tags: Sequence[str] = (),
        transport: "httpx.AsyncBaseTransport | None" = None,
    ) -> None:
        url = base_url or _from_environment(URL_VARIABLES) or DEFAULT_URL
        key = api_key or _from_environment(KEY_VARIABLES)
        self._session = Session(
            Transport(url, key, timeout, first_contact=first_contact, handler=transport), user_metadata, tags
        )

    @property
    def base_url(self) -> str:
        """The server's address, without the API's prefix."""
        return self._session.transport.base_url

    @cached_property
    def datasets(self) -> "Datasets":
        """Datasets: upload, read, filter, deduplicate, split, download."""
        from rekindle.datasets import Datasets

        return Datasets(self._session)

    @cached_property
    def rewards(self) -> "Rewards":
        """Graders: score completions."""
        from rekindle.rewards import Rewards

        return Rewards(self._session)

    @cached_property
    def runs(self) -> "Runs":
        """Training runs: list, get, checkpoints."""
        from rekindle.runs import Runs

        return Runs(self._session)

    @cached_property
    def rl_runs(self) -> "RlRuns":
        """RL runs that need no client: start, watch, pause, resume, cancel, plot."""
        from rekindle.rl_runs import RlRuns

        return RlRuns(self._session)

    @cached_property
    def triggers(self) -> "Triggers":
        """Triggers: facts that start an RL run or call a webhook."""
        from rekindle.triggers import Triggers

        return Triggers(self._session)

    @cached_property
    def checkpoints(self) -> "Checkpoints":
        """Saved weights: list, describe, delete, publish, expire, download."""
        from rekindle.checkpoints import Checkpoints

        return Checkpoints(self._session)

    def get_server_capabilities(self) -> Future[GetServerCapabilitiesResponse]:
        """The base models that are served."""
        return self._session.future(
            lambda _: self._session.transport.ask(
                GetServerCapabilitiesResponse, "GET", "/get_server_capabilities"
            )
        )

    def list_services(self) -> Future[ServiceList]:
        """How the services behind the server fare: state, replicas, queued work. Empty where none starts on demand."""

        async def ask(_: Progress) -> ServiceList:
            return list((await self._session.transport.ask(ServicesResponse, "GET", "/services")).services)

        return self._session.future(ask)

    def create_lora_training_client(
        self,
        base_model: str,
        rank: int = 32,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: Mapping[str, str] | None = None,
    ) -> Future[TrainingClient]:
        """A new run: a fresh LoRA adapter on a base model, which changes nothing before its first step.

        rank: 1 to 512; the scaling is 32 / rank. seed: of the adapter's random half, None lets the server
        choose. At least one of the three groups of layers must be trained.

        Raises:
            InvalidField: at once, for a wrong argument.
            RequestFailed: from the future, e.g. if the base model is not served.
        """
        lora = build(
            LoraConfig,
            rank=rank,
            seed=seed,
            train_mlp=train_mlp,
            train_attn=train_attn,
            train_unembed=train_unembed,
        )
        return self._create(create_run, base_model=base_model, lora_config=lora, user_metadata=user_metadata)

    def create_training_client_from_state(
        self, path: str, user_metadata: Mapping[str, str] | None = None
    ) -> Future[TrainingClient]:
        """A new run with the weights of a checkpoint and a fresh optimizer."""
        TinkerPath.parse(path)
        return self._create(create_run_from, path=path, optimizer=False, user_metadata=user_metadata)

    def create_training_client_from_state_with_optimizer(
        self, path: str, user_metadata: Mapping[str, str] | None = None
    ) -> Future[TrainingClient]:
        """A new run that goes on where a checkpoint was saved, as if it had never stopped."""
        TinkerPath.parse(path)
        return self._create(create_run_from, path=path, optimizer=True, user_metadata=user_metadata)

    def _create(self, create: Any, **fields: Any) -> Future[TrainingClient]:
        number = next(self._session.model_numbers)
        return self._session.future(lambda progress: create(self._session, number, progress, **fields))

    def create_sampling_client(
        self, base_model: str | None = None, model_path: str | None = None
    ) -> Future[SamplingClient]:
        """A sampler of a base model, or of a checkpoint `tinker://<run>/<kind>/<name>`.

        Raises:
            InvalidField: at once, if neither is given or the path is none.
            BadRequest, NotFound: from the future; not served, or no such checkpoint.
        """
        if base_model is None and model_path is None:
            raise InvalidField("base_model", "expected base_model, model_path or both")
        if model_path is not None:
            TinkerPath.parse(model_path, "model_path")
        number = next(self._session.sampler_numbers)
        return self._session.future(lambda _: open_sampler(self._session, number, base_model, model_path))

    # ---- The end ----

    def close(self, outcome: Outcome = "success") -> Future[None]:
        """Finish the session; what still waits fails with ClientClosed. Closing again changes nothing."""
        return Future(background.start(self._session.close(outcome)), Progress())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(_outcome(kind)).result()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close(_outcome(kind))


def _outcome(kind: type[BaseException] | None) -> Outcome:
    if kind is None:
        return "success"
    return "errored" if issubclass(kind, Exception) else "interrupted"


def _from_environment(names: Sequence[str]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)
