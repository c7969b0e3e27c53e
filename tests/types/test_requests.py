"""The JSON messages: what the Tinker client sends is understood, what we answer it accepts."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
import tinker
import torch
from tinker import types as theirs

from rekindle import types as ours
from rekindle.types import InvalidField, parse_json, requests
from rekindle.types.fields import Message

MODEL = {"model_id": "s1:train:0", "seq_id": 3}
PATH = "tinker://s1:train:0/weights/000020"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def client_json(request) -> bytes:
    """The body that the client makes of a request: without fields that are None."""
    return request.model_dump_json(exclude_none=True).encode()


REQUESTS = [
    theirs.ClientConfigRequest(sdk_version="0.38.0"),
    theirs.CreateSessionRequest(tags=["a"], user_metadata={"k": "v"}, sdk_version="0.38.0"),
    theirs.SessionHeartbeatRequest(session_id="s1"),
    theirs.TelemetrySendRequest(
        events=[], platform="linux", sdk_version="0.38.0", session_id="s1", process_uuid="p"
    ),
    theirs.CreateModelRequest(
        session_id="s1",
        model_seq_id=0,
        base_model="/models/tiny",
        lora_config=theirs.LoraConfig(rank=8, seed=-1, train_unembed=False),
        user_metadata={"renderer_name": "role_colon"},
    ),
    theirs.LoadWeightsRequest(**MODEL, path=PATH, optimizer=False),
    theirs.LoadWeightsRequest(session_id="s1", model_seq_id=2, path=PATH, optimizer=True),
    theirs.SaveWeightsRequest(**MODEL, path="000020", ttl_seconds=604800, overwrite=True),
    theirs.SaveWeightsForSamplerRequest(**MODEL, path="final"),
    theirs.SaveWeightsForSamplerRequest(**MODEL, sampling_session_seq_id=4, kind="inflight"),
    theirs.SaveWeightsExternalRequest(**MODEL, path="download", ttl_seconds=3600),
    theirs.GetInfoRequest(model_id="s1:train:0"),
    theirs.CreateSamplingSessionRequest(session_id="s1", sampling_session_seq_id=0, model_path=PATH),
    theirs.FutureRetrieveRequest(request_id="s1:train:0:3", allow_metadata_only=True),
    theirs.CopyWeightsRequest(source_path=PATH, session_id="s1", model_seq_id=1),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: type(r).__name__)
def test_what_the_client_sends_is_read_field_by_field(request_):
    kind = getattr(ours, type(request_).__name__)
    read = parse_json(kind, client_json(request_))
    sent = json.loads(client_json(request_))
    assert json.loads(read.model_dump_json(exclude_none=True)) == sent


NOT_OURS = {
    "SampleRequest": {"base_model", "model_path"},  # the sampling session names the model
    "OptimStepRequest": {"optim_params"},  # spelled adam_params on the wire
}
PAIRS = [
    (getattr(ours, name), getattr(theirs, name))
    for name in requests.__all__
    if isinstance(getattr(ours, name, None), type) and issubclass(getattr(ours, name), Message)
    if hasattr(getattr(theirs, name, None), "model_fields")
]


@pytest.mark.parametrize(("mine", "other"), PAIRS, ids=lambda kind: kind.__name__)
def test_no_field_of_the_client_is_unknown_to_us(mine, other):
    assert set(other.model_fields) - set(mine.model_fields) - NOT_OURS.get(mine.__name__, set()) == set()


def test_most_messages_have_a_counterpart_in_the_client():
    assert len(PAIRS) > 30


CHECKPOINT = ours.Checkpoint(
    checkpoint_id="weights/000020", checkpoint_type="training", time=NOW, tinker_path=PATH
)
RUN = ours.TrainingRun(
    training_run_id="s1:train:0",
    base_model="tiny",
    model_owner="local",
    is_lora=True,
    lora_rank=8,
    last_request_time=NOW,
    last_checkpoint=CHECKPOINT,
    user_metadata={"a": "b"},
)
CURSOR = ours.Cursor(offset=0, limit=20, total_count=1)
RESPONSES = [
    (ours.ClientConfigResponse(), theirs.ClientConfigResponse),
    (ours.ClientDynamicConfigResponse(), theirs.ClientDynamicConfigResponse),
    (ours.CreateSessionResponse(session_id="s1"), theirs.CreateSessionResponse),
    (ours.SessionHeartbeatResponse(), theirs.SessionHeartbeatResponse),
    (ours.TelemetryResponse(), theirs.TelemetryResponse),
    (
        ours.GetServerCapabilitiesResponse(supported_models=[ours.SupportedModel(model_name="tiny")]),
        theirs.GetServerCapabilitiesResponse,
    ),
    (ours.GetSessionResponse(training_run_ids=["a"], sampler_ids=[]), theirs.GetSessionResponse),
    (ours.ListSessionsResponse(sessions=["s1"]), theirs.ListSessionsResponse),
    (ours.UntypedFuture(request_id="r", sample_sequence_ids=["q"]), theirs.UntypedAPIFuture),
    (ours.RequestFailedResponse(error="no", category="user"), theirs.RequestFailedResponse),
    (ours.CreateModelResponse(model_id="s1:train:0"), theirs.CreateModelResponse),
    (ours.LoadWeightsResponse(path=PATH, model_id="s1:train:0"), theirs.LoadWeightsResponse),
    (ours.OptimStepResponse(metrics={"grad_norm": 1.0}), theirs.OptimStepResponse),
    (ours.SaveWeightsResponse(path=PATH), theirs.SaveWeightsResponse),
    (ours.SaveWeightsForSamplerResponse(path=PATH), theirs.SaveWeightsForSamplerResponse),
    (ours.SaveWeightsExternalResponse(path=PATH, size_bytes=9), theirs.SaveWeightsExternalResponse),
    (
        ours.GetInfoResponse(
            model_id="s1:train:0",
            model_data=ours.ModelData(model_name="tiny"),
            is_lora=True,
            lora_rank=8,
        ),
        theirs.GetInfoResponse,
    ),
    (ours.CreateSamplingSessionResponse(sampling_session_id="x"), theirs.CreateSamplingSessionResponse),
    (ours.GetSamplerResponse(sampler_id="x", base_model="tiny"), theirs.GetSamplerResponse),
    (CHECKPOINT, theirs.Checkpoint),
    (RUN, theirs.TrainingRun),
    (ours.TrainingRunsResponse(training_runs=[RUN], cursor=CURSOR), theirs.TrainingRunsResponse),
    (ours.CheckpointsListResponse(checkpoints=[CHECKPOINT]), theirs.CheckpointsListResponse),
    (ours.WeightsInfoResponse(base_model="tiny", is_lora=True), theirs.WeightsInfoResponse),
    (ours.CopyWeightsResponse(tinker_path=PATH), theirs.CopyWeightsResponse),
    (
        ours.ExternalWeightsUrlsResponse(urls={"a": "http://x/a"}, expires=NOW),
        theirs.ExternalWeightsUrlsResponse,
    ),
]


@pytest.mark.parametrize(("response", "kind"), RESPONSES, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("exclude_none", [True, False])
def test_what_we_answer_is_read_by_the_client_as_meant(response, kind, exclude_none):
    read = kind.model_validate_json(response.model_dump_json(exclude_none=exclude_none))
    sent = json.loads(response.model_dump_json())
    for name in kind.model_fields:
        assert json.loads(read.model_dump_json())[name] == sent[name]


def test_our_defaults_of_the_configuration_are_the_clients():
    for mine, other in (
        (ours.ClientConfigResponse(), theirs.ClientConfigResponse()),
        (ours.ClientDynamicConfigResponse(), theirs.ClientDynamicConfigResponse()),
    ):
        assert mine.model_dump() == other.model_dump()


def test_an_optimizer_step_of_the_client_is_read():
    request = theirs.OptimStepRequest(**MODEL, optim_params=tinker.AdamParams(learning_rate=5e-4, eps=1e-8))
    read = parse_json(ours.OptimStepRequest, client_json(request))
    assert read.adam_params.model_dump() == request.optim_params.model_dump()
    assert ours.AdamParams().model_dump() == tinker.AdamParams().model_dump()


def test_a_finish_and_a_ttl_are_read():
    finish = parse_json(ours.FinishSessionRequest, b'{"reason": {"type": "success"}, "detail": null}')
    assert finish.reason.type == "success" and finish.detail is None
    assert parse_json(ours.CheckpointTtlRequest, b'{"ttl_seconds": null}').ttl_seconds is None
    assert parse_json(ours.CheckpointTtlRequest, b'{"ttl_seconds": 7200}').ttl_seconds == 7200


def test_a_save_without_a_name_is_named_by_its_number():
    assert ours.SaveWeightsRequest(**MODEL).name == "000003"
    assert ours.SaveWeightsRequest(**MODEL, path="final").name == "final"


def test_a_load_knows_whether_it_makes_a_model():
    assert ours.LoadWeightsRequest(session_id="s", model_seq_id=0, path=PATH, optimizer=True).creates_model
    assert not ours.LoadWeightsRequest(**MODEL, path=PATH, optimizer=True).creates_model


# ---- Samples ----


def sample_body(**fields) -> dict:
    request = theirs.SampleRequest(
        sampling_session_id="x",
        seq_id=5_000_000_007,
        prompt=tinker.ModelInput.from_ints([1, 2, 3]),
        sampling_params=tinker.SamplingParams(),
        prompt_logprobs=False,
    )
    return {**json.loads(client_json(request)), **fields}


def sample_request(**fields) -> ours.SampleRequest:
    return parse_json(ours.SampleRequest, json.dumps(sample_body(**fields)))


def params(**fields) -> dict:
    return {"sampling_params": fields}


def test_a_sample_of_the_client_is_read_field_by_field():
    request = sample_request()
    assert json.loads(request.model_dump_json(exclude_none=True)) == sample_body(record_stability_info=False)
    assert request.prompt.tokens.tolist() == [1, 2, 3]
    assert request.seq_id == 5_000_000_007


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (None, None),
        ([], ()),
        ("\n", "\n"),
        (["\n", "User:"], ("\n", "User:")),
        ([0, 151645], (0, 151645)),
        (["1"], ("1",)),
    ],
)
def test_every_kind_of_stop_stays_what_it_is(stop, expected):
    body = client_json(tinker.SamplingParams(stop=stop))
    read = parse_json(ours.SamplingParams, body)
    assert read.stop == expected and type(read.stop) is type(expected)
    assert ours.SamplingParams.model_validate_json(read.model_dump_json()) == read


def test_prompts_may_come_in_parts_some_of_them_empty():
    chunks = [{"type": "encoded_text", "tokens": part} for part in ([1], [], [2, 3])]
    request = sample_request(prompt={"chunks": chunks})
    assert request.prompt.tokens.tolist() == [1, 2, 3]
    ours.check_sample(request, vocab_size=10, context_length=3)


@pytest.mark.parametrize("sparse", [True, False])
def test_target_tokens_of_the_client_are_read_in_their_layout(sparse):
    matrix = torch.full((2, 8), -1, dtype=torch.int64)
    matrix[0, 3], matrix[1, 5] = 7, 9
    data = (
        tinker.TensorData.from_torch_sparse(matrix, pad_value=-1)
        if sparse
        else tinker.TensorData.from_torch(matrix)
    )
    wire = {name: getattr(data, name) for name in ("data", "dtype", "shape")}
    wire |= {"sparse_crow_indices": data.sparse_crow_indices, "sparse_col_indices": data.sparse_col_indices}
    request = sample_request(target_prompt_logprobs=wire)
    ours.check_sample(request, vocab_size=10, context_length=8)
    np.testing.assert_array_equal(request.target_prompt_logprobs.dense(), matrix.numpy())
    layout = request.target_prompt_logprobs.layout
    assert (layout is not None) == sparse
    if layout is not None:
        assert layout.col_indices.tolist() == [3, 5]


def target(data, shape, **sparse) -> dict:
    return {"target_prompt_logprobs": {"data": data, "dtype": "int64", "shape": shape, **sparse}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": {"chunks": []}}, "prompt: 0 tokens, expected 1 to 8 (the context length)"),
        (
            {"prompt": {"chunks": [{"type": "encoded_text", "tokens": [1] * 9}]}},
            "prompt: 9 tokens, expected 1 to 8 (the context length)",
        ),
        (
            {"prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 10]}]}},
            "prompt[1]: 10, expected a token id in 0..9",
        ),
        (
            {"prompt": {"chunks": [{"type": "image", "data": "AA==", "format": "png"}]}},
            "prompt.chunks[0]: image chunk, only text is supported",
        ),
        (
            {"prompt": {"chunks": [{"type": "dmel", "dmel": "AA=="}]}},
            "prompt.chunks[0]: dmel chunk, only text is supported",
        ),
        ({"topk_prompt_logprobs": 11}, "topk_prompt_logprobs: 11, the vocabulary has 10 tokens"),
        ({"topk_sample_logprobs": 11}, "topk_sample_logprobs: 11, the vocabulary has 10 tokens"),
        ({"prompt_logprobs_last_n": 1}, "prompt_logprobs_last_n: needs prompt_logprobs"),
        (
            {"prompt_logprobs_last_n": 3, "prompt_logprobs": True},
            "prompt_logprobs_last_n: 3, expected at most 2 (N - 1)",
        ),
        (target([1, 2, 3], [3, 1]), "target_prompt_logprobs: 3 rows, expected 2 (prompt length - 1)"),
        (target([1, 2, 3], [2, 1]), "target_prompt_logprobs: 3 numbers, expected 2"),
        (target([1, 10], [2, 1]), "target_prompt_logprobs[1][0]: 10, expected a token id in -1..9"),
        (
            target([1], [2, 4], sparse_crow_indices=[0, 1, 1], sparse_col_indices=[4]),
            "target_prompt_logprobs: column index outside 0..3",
        ),
        (
            target([1], [2, 4], sparse_crow_indices=[0, 1, 1]),
            "target_prompt_logprobs: 0 column indices, expected 1 (one per value)",
        ),
    ],
)
def test_a_sample_that_cannot_be_computed_is_refused(fields, message):
    with pytest.raises(InvalidField) as caught:
        ours.check_sample(sample_request(**fields), vocab_size=10, context_length=8)
    assert str(caught.value) == message


def test_a_prompt_that_fills_the_context_can_still_be_scored():
    request = sample_request(prompt={"chunks": [{"type": "encoded_text", "tokens": [1] * 8}]})
    ours.check_sample(request, vocab_size=10, context_length=8)


# ---- Refusals ----


LORA = {"rank": 8}
CREATE = {"session_id": "s", "model_seq_id": 0, "base_model": "m", "lora_config": LORA}
LOAD = {"path": PATH, "optimizer": True}


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (
            ours.CreateModelRequest,
            {**CREATE, "lora_config": {"rank": 0}},
            "lora_config.rank: Input should be greater than or equal to 1, got 0",
        ),
        (
            ours.CreateModelRequest,
            {**CREATE, "lora_config": {"rank": 513}},
            "lora_config.rank: Input should be less than or equal to 512, got 513",
        ),
        (ours.CreateModelRequest, {**CREATE, "lora_config": None}, "lora_config: missing"),
        (
            ours.CreateModelRequest,
            {
                **CREATE,
                "lora_config": {**LORA, "train_attn": False, "train_mlp": False, "train_unembed": False},
            },
            "lora_config.train_attn: at least one of train_attn, train_mlp, train_unembed must be true",
        ),
        (
            ours.CreateModelRequest,
            {**CREATE, "lora_config": {**LORA, "alpha": 16}},
            "lora_config.alpha: unknown, and ignoring it would change the result",
        ),
        (
            ours.CreateModelRequest,
            {**CREATE, "optimizer_config": {"type": "dimuon", "version": 1}},
            "optimizer_config.type: 'dimuon' is not supported; supported: adamw",
        ),
        (
            ours.CreateModelRequest,
            {**CREATE, "user_metadata": {"step": 3}},
            "user_metadata.step: Input should be a valid string, got 3",
        ),
        (
            ours.CreateModelRequest,
            {**CREATE, "user_metadata": {"note": "x" * 20_000}},
            "user_metadata: 20004 characters, the limit is 16384",
        ),
        (
            ours.OptimStepRequest,
            {**MODEL, "optimizer_params": {"type": "dimuon", "learning_rate": 1}},
            "optimizer_params: 'dimuon' is not supported; send adam_params (adamw)",
        ),
        (ours.OptimStepRequest, MODEL, "adam_params: missing"),
        (
            ours.OptimStepRequest,
            {**MODEL, "adam_params": {"learning_rate": -1}},
            "adam_params.learning_rate: Input should be greater than or equal to 0, got -1",
        ),
        (
            ours.OptimStepRequest,
            {**MODEL, "adam_params": {"beta2": 1}},
            "adam_params.beta2: Input should be less than 1, got 1",
        ),
        (
            ours.OptimStepRequest,
            {**MODEL, "adam_params": {"eps": 0}},
            "adam_params.eps: Input should be greater than 0, got 0",
        ),
        (
            ours.OptimStepRequest,
            {**MODEL, "adam_params": {"weight_decay": -0.1}},
            "adam_params.weight_decay: Input should be greater than or equal to 0, got -0.1",
        ),
        (
            ours.OptimStepRequest,
            {**MODEL, "adam_params": {"grad_clip_norm": -1}},
            "adam_params.grad_clip_norm: Input should be greater than or equal to 0, got -1",
        ),
        (
            ours.OptimStepRequest,
            {**MODEL, "adam_params": {"learning_rate": float("nan")}},
            "adam_params.learning_rate: Input should be a finite number, got nan",
        ),
        (
            ours.OptimStepRequest,
            {**MODEL, "adam_params": {"learning_rate": float("inf")}},
            "adam_params.learning_rate: Input should be a finite number, got inf",
        ),
        (ours.OptimStepRequest, {"model_id": "m", "adam_params": {}}, "seq_id: missing"),
        (
            ours.OptimStepRequest,
            {**MODEL, "seq_id": 0, "adam_params": {}},
            "seq_id: Input should be greater than or equal to 1, got 0",
        ),
        (
            ours.LoadWeightsRequest,
            LOAD,
            "model_id: expected model_id and seq_id, or session_id and model_seq_id; got neither",
        ),
        (
            ours.LoadWeightsRequest,
            {**LOAD, **MODEL, "session_id": "s"},
            "model_id: expected model_id and seq_id, or session_id and model_seq_id; "
            "got model_id, seq_id, session_id",
        ),
        (
            ours.LoadWeightsRequest,
            {**LOAD, **MODEL, "path": "tinker://a/b"},
            "path: 'tinker://a/b', expected tinker://<run>/<kind>/<name>",
        ),
        (
            ours.SaveWeightsRequest,
            {**MODEL, "ttl_seconds": 60},
            "ttl_seconds: Input should be greater than or equal to 3600, got 60",
        ),
        (
            ours.SaveWeightsForSamplerRequest,
            MODEL,
            "path: expected either path or sampling_session_seq_id",
        ),
        (
            ours.SaveWeightsForSamplerRequest,
            {**MODEL, "path": "a", "sampling_session_seq_id": 1},
            "path: expected either path or sampling_session_seq_id",
        ),
        (
            ours.SaveWeightsExternalRequest,
            {**MODEL, "path": "a", "age_encryption_recipients": ["age1x"]},
            "age_encryption_recipients: encryption is not supported; leave it out",
        ),
        (
            ours.CreateSamplingSessionRequest,
            {"session_id": "s", "sampling_session_seq_id": 0},
            "base_model: expected base_model, model_path or both",
        ),
        (
            ours.FinishSessionRequest,
            {"reason": {"type": "bored"}},
            "reason.type: Input should be 'success', 'errored' or 'interrupted', got 'bored'",
        ),
    ],
)
def test_a_request_outside_the_limits_is_refused(kind, body, message):
    with pytest.raises(InvalidField) as caught:
        parse_json(kind, json.dumps(body))
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "a b", "ü", "a\n", "x" * 129])
def test_a_checkpoint_takes_no_name_that_could_be_a_place(name):
    with pytest.raises(InvalidField, match=r"^path: "):
        parse_json(ours.SaveWeightsRequest, json.dumps({**MODEL, "path": name}))


@pytest.mark.parametrize("name", ["000020", "final", "a.b_c-D", "-", "x" * 128])
def test_a_checkpoint_takes_ordinary_names(name):
    assert ours.SaveWeightsRequest(**MODEL, path=name).path == name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"num_samples": 0},
            "num_samples: Input should be greater than or equal to 1, got 0",
        ),
        (
            {"num_samples": 1025},
            "num_samples: Input should be less than or equal to 1024, got 1025",
        ),
        (
            params(temperature=-0.1),
            "sampling_params.temperature: Input should be greater than or equal to 0, got -0.1",
        ),
        (
            params(temperature=float("inf")),
            "sampling_params.temperature: Input should be a finite number, got inf",
        ),
        (params(top_p=0), "sampling_params.top_p: Input should be greater than 0, got 0"),
        (params(top_p=1.1), "sampling_params.top_p: Input should be less than or equal to 1, got 1.1"),
        (params(top_k=0), "sampling_params.top_k: 0, expected -1 (off) or 1 and more"),
        (params(top_k=-2), "sampling_params.top_k: -2, expected -1 (off) or 1 and more"),
        (
            params(max_tokens=0),
            "sampling_params.max_tokens: Input should be greater than or equal to 1, got 0",
        ),
        (
            params(seed=1.5),
            "sampling_params.seed: Input should be a valid integer, got a number with a fractional part, got 1.5",
        ),
        (
            params(min_p=0.1),
            "sampling_params.min_p: unknown, and ignoring it would change the result",
        ),
        (
            params(stop=["a", 1]),
            "sampling_params.stop: expected texts that are not empty or token ids from 0 up, not both",
        ),
        (
            params(stop=[""]),
            "sampling_params.stop: expected texts that are not empty or token ids from 0 up, not both",
        ),
        (
            params(stop=""),
            "sampling_params.stop: expected texts that are not empty or token ids from 0 up, not both",
        ),
        (
            params(stop=[-1]),
            "sampling_params.stop: expected texts that are not empty or token ids from 0 up, not both",
        ),
        (
            params(stop=[True]),
            "sampling_params.stop: expected texts that are not empty or token ids from 0 up, not both",
        ),
        (params(stop=5), "sampling_params.stop: expected a text, a list of texts or a list of token ids"),
        (params(stop=["a"] * 65), "sampling_params.stop: 65 entries, the limit is 64"),
        ({"sampling_session_id": None}, "sampling_session_id: missing"),
        ({"model_path": PATH}, "model_path: unknown, and ignoring it would change the result"),
        (
            {"topk_prompt_logprobs": -1},
            "topk_prompt_logprobs: Input should be greater than or equal to 0, got -1",
        ),
        (
            {"prompt_alt_tokens_k": 1025},
            "prompt_alt_tokens_k: Input should be less than or equal to 1024, got 1025",
        ),
        (
            {"prompt_logprobs_last_n": 0},
            "prompt_logprobs_last_n: Input should be greater than or equal to 1, got 0",
        ),
        (
            target([1, -2], [2, 1]),
            "target_prompt_logprobs.data[1]: Input should be greater than or equal to -1, got -2",
        ),
        (
            target([2**70], [1, 1]),
            "target_prompt_logprobs.data[0]: Input should be less than or equal to 2147483647, "
            "got 1180591620717411303424",
        ),
        (
            {"prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, -1]}]}},
            "prompt.chunks[0].encoded_text.tokens[1]: Input should be greater than or equal to 0, got -1",
        ),
        (
            {"target_prompt_logprobs": {"data": [0.5], "dtype": "float32", "shape": [1, 1]}},
            "target_prompt_logprobs.data[0]: Input should be a valid integer, "
            "got a number with a fractional part, got 0.5",
        ),
    ],
)
def test_a_sample_outside_the_limits_is_refused(fields, message):
    with pytest.raises(InvalidField) as caught:
        sample_request(**fields)
    assert str(caught.value) == message


def test_unknown_fields_are_ignored_where_they_do_not_matter():
    read = parse_json(
        ours.CreateSessionRequest, b'{"tags": [], "sdk_version": "9", "mood": "good", "project_id": null}'
    )
    assert read.project_id is None
    assert not hasattr(read, "mood")
    parse_json(ours.SamplingParams, b'{"min_p": 0.0, "penalties": [], "greedy": false, "bias": null}')


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"null", b"\xff"])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(InvalidField, match=r"^body: "):
        parse_json(ours.GetInfoRequest, body)


def test_messages_are_frozen():
    request = ours.GetInfoRequest(model_id="m")
    with pytest.raises(ValueError, match="frozen"):
        request.model_id = "n"


def test_every_message_is_exported_and_described():
    everything = [
        kind for kind in vars(requests).values() if isinstance(kind, type) and issubclass(kind, Message)
    ]
    assert len(everything) > 50
    for kind in everything:
        if kind.__module__ != "rekindle.types.fields":
            assert kind.__name__ in ours.__all__ and kind.model_json_schema()["type"] == "object"
