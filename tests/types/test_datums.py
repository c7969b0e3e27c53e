"""Training requests: read as the Tinker client writes them, refused with the field and the limit."""

import time

import numpy as np
import pytest
import tinker
import torch
from tinker.proto.request_conv import forward_backward_request_to_proto

from rekindle.types import (
    LOSSES,
    Datum,
    ForwardBackwardRequest,
    InvalidField,
    check_forward_backward,
    encode_forward_backward,
    parse_forward_backward,
    peek_numbers,
    wire_pb2,
)

MODEL_ID = "s1:train:0"


def client_bytes(data, loss_fn="cross_entropy", config=None, **fields) -> bytes:
    """What the Tinker client posts for these datums."""
    request = tinker.types.ForwardBackwardRequest(
        forward_backward_input=tinker.types.ForwardBackwardInput(
            data=data, loss_fn=loss_fn, loss_fn_config=config
        ),
        model_id=MODEL_ID,
        seq_id=7,
    )
    message = forward_backward_request_to_proto(request)
    for name, value in fields.items():
        setattr(message, name, value)
    return message.SerializeToString()


def text(*chunks: list[int]) -> tinker.ModelInput:
    return tinker.ModelInput(chunks=[tinker.types.EncodedTextChunk(tokens=chunk) for chunk in chunks])


def policy_datum(n=4, **inputs) -> tinker.Datum:
    given = {"target_tokens": [1] * n, "logprobs": [-0.5] * n, "advantages": [1.0] * n, **inputs}
    return tinker.Datum(model_input=text([2] * n), loss_fn_inputs=given)


def test_a_batch_of_the_client_is_read_field_by_field():
    datum = tinker.Datum(
        model_input=text([5, 6], [], [7]),
        loss_fn_inputs={"target_tokens": [6, 7, 8], "weights": np.array([0.0, 0.5, 1.0])},
    )
    request = parse_forward_backward(client_bytes([datum, policy_datum()], forward_only=True))
    assert (request.model_id, request.seq_id, request.loss_fn) == (MODEL_ID, 7, "cross_entropy")
    assert request.forward_only and len(request.data) == 2
    first = request.data[0]
    assert first.tokens.tolist() == [5, 6, 7] and first.tokens.dtype == np.int64
    assert first.inputs["target_tokens"].tolist() == [6, 7, 8]
    assert first.inputs["target_tokens"].dtype == np.int64
    assert first.inputs["weights"].tolist() == [0.0, 0.5, 1.0]
    assert first.inputs["weights"].dtype == np.float32


def test_whole_numbers_are_welcome_as_weights():
    datum = tinker.Datum(
        model_input=text([5, 6]),
        loss_fn_inputs={"target_tokens": [6, 7], "weights": tinker.TensorData([0, 1], "int64", [2])},
    )
    request = parse_forward_backward(client_bytes([datum]))
    check_forward_backward(request, vocab_size=10, context_length=8)
    assert request.data[0].inputs["weights"].dtype == np.float32


def test_sparse_targets_and_weights_with_different_patterns_are_dense():
    targets = torch.zeros(6, 8, dtype=torch.int64)
    weights = torch.zeros(6, 8)
    targets[0, 1], targets[4, 7], weights[4, 7], weights[5, 0] = 3, 4, 0.25, 0.5
    datum = tinker.Datum(
        model_input=text([1] * 6), loss_fn_inputs={"target_tokens": targets, "weights": weights}
    )
    assert datum.loss_fn_inputs["weights"].sparse_crow_indices is not None
    request = parse_forward_backward(client_bytes([datum]))
    check_forward_backward(request, vocab_size=10, context_length=8)
    np.testing.assert_array_equal(request.data[0].inputs["target_tokens"], targets.numpy())
    np.testing.assert_array_equal(request.data[0].inputs["weights"], weights.numpy())


def test_sparse_tensors_may_not_grow_without_bound():
    message = wire_pb2.ForwardBackwardRequest(model_id="m", seq_id=1, loss_fn="cross_entropy")
    for _ in range(3):
        tensor = message.data.add().loss_fn_inputs["weights"]
        tensor.dtype = wire_pb2.DTYPE_FLOAT32
        tensor.shape.extend([1, 1 << 25])
        tensor.sparse_csr.crow_indices = bytes(16)
    with pytest.raises(InvalidField, match=r"^data: more than 67108864 numbers after densifying$"):
        parse_forward_backward(message.SerializeToString())


def test_numbers_of_the_configuration_come_from_the_newer_map_and_else_from_the_older():
    body = client_bytes([policy_datum()], "ppo", {"clip_low_threshold": 0.5, "clip_high_threshold": 1.5})
    message = wire_pb2.ForwardBackwardRequest.FromString(body)
    message.loss_fn_config["clip_low_threshold"] = 0.1
    del message.loss_fn_config_v2["clip_high_threshold"]
    request = parse_forward_backward(message.SerializeToString())
    assert request.loss_fn_config == {"clip_low_threshold": 0.5, "clip_high_threshold": 1.5}


def test_provenance_spans_are_ignored():
    span = tinker.types.PromptProvenanceSpan(sequence_id="s", offset=0, length=4)
    datum = policy_datum().with_provenance(model_input=[span], loss_fn_inputs=[span])
    request = parse_forward_backward(client_bytes([datum], "importance_sampling"))
    check_forward_backward(request, vocab_size=10, context_length=8)


def test_our_own_requests_come_back_as_they_went_and_the_client_reads_them():
    from tinker.proto import tinker_public_pb2

    datum = Datum(np.array([1, 2]), {"target_tokens": np.array([2, 3]), "weights": np.ones(2, np.float32)})
    request = ForwardBackwardRequest("m", 3, [datum], "ppo", {"clip_low_threshold": 0.9, "note": "x"}, True)
    body = encode_forward_backward(request)
    back = parse_forward_backward(body)
    assert (back.model_id, back.seq_id, back.loss_fn, back.forward_only) == ("m", 3, "ppo", True)
    assert back.loss_fn_config == request.loss_fn_config
    assert back.data[0].tokens.tolist() == [1, 2]
    assert {name: array.tolist() for name, array in back.data[0].inputs.items()} == {
        "target_tokens": [2, 3],
        "weights": [1.0, 1.0],
    }
    assert tinker_public_pb2.ForwardBackwardRequest.FromString(body).loss_fn_config_v2["note"].text == "x"


def test_many_datums_are_read_and_checked_quickly():
    data = [policy_datum(200) for _ in range(2500)]
    body = client_bytes(data, "ppo")
    start = time.process_time()
    request = parse_forward_backward(body)
    parsed = time.process_time()
    check_forward_backward(request, vocab_size=10, context_length=200)
    checked = time.process_time()
    assert len(request.data) == 2500
    # about 0.15 s and 0.03 s: a loop over tokens would take a hundred times as long
    assert parsed - start < 3 and checked - parsed < 1


def test_defaults_are_filled_in_the_shape_of_the_targets():
    targets = np.zeros((3, 2), np.int64)
    filled = LOSSES["cross_entropy"].fill_inputs({"target_tokens": targets}, {})
    assert filled["weights"].tolist() == [[1.0, 1.0]] * 3 and filled["weights"].dtype == np.float32
    ppo = LOSSES["ppo"]
    given = {"target_tokens": np.zeros(2, np.int64), "clip_low_threshold": np.array([0.1, 0.2], np.float32)}
    filled = ppo.fill_inputs(given, {"clip_high_threshold": 2.0})
    assert filled["clip_low_threshold"] is given["clip_low_threshold"]
    assert filled["clip_high_threshold"].tolist() == [2.0, 2.0]
    assert ppo.fill_config({}) == {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2, "entropy": 0.0}
    assert [ppo.asks_entropy(config) for config in ({}, {"entropy": 0.0}, {"entropy": 1.0})] == [0, 0, 1]


# ---- Refusals ----


def request_of(loss_fn="ppo", config=None, tokens=4, **inputs) -> ForwardBackwardRequest:
    """Two datums, the first one good; an input given as None is left out."""
    good = {"target_tokens": np.ones(4, np.int64)}
    if loss_fn != "cross_entropy":
        good |= {"logprobs": np.zeros(4, np.float32), "advantages": np.zeros(4, np.float32)}
    second = {name: array for name, array in {**good, **inputs}.items() if array is not None}
    data = [Datum(np.ones(4, np.int64), good), Datum(np.ones(tokens, np.int64), second)]
    return ForwardBackwardRequest("m", 1, data, loss_fn, config or {}, False)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


NAN, INF = float("nan"), float("inf")
INPUTS = "data[1].loss_fn_inputs"
REFUSALS = [
    (
        request_of("gspo"),
        "loss_fn: 'gspo' is not supported; supported: cross_entropy, importance_sampling, ppo",
    ),
    (
        request_of("custom"),
        "loss_fn: 'custom' is not supported; supported: cross_entropy, importance_sampling, ppo",
    ),
    (request_of(""), "loss_fn: '' is not supported; supported: cross_entropy, importance_sampling, ppo"),
    (
        request_of(config={"beta": 0.1}),
        "loss_fn_config.beta: unknown; ppo takes clip_low_threshold, clip_high_threshold, entropy",
    ),
    (
        request_of("cross_entropy", config={"beta": 0.1}),
        "loss_fn_config.beta: unknown; cross_entropy takes entropy",
    ),
    (
        request_of(config={"clip_low_threshold": "low"}),
        "loss_fn_config.clip_low_threshold: 'low', expected a number",
    ),
    (
        request_of(config={"clip_low_threshold": -0.1}),
        "loss_fn_config.clip_low_threshold: -0.1, expected 0 to 1e+06",
    ),
    (
        request_of(config={"clip_high_threshold": NAN}),
        "loss_fn_config.clip_high_threshold: nan, expected 0 to 1e+06",
    ),
    (request_of(config={"entropy": 2.0}), "loss_fn_config.entropy: 2.0, expected 0 to 1"),
    (
        request_of(config={"clip_low_threshold": 1.3}),
        "loss_fn_config.clip_low_threshold: 1.3, expected at most clip_high_threshold (1.2)",
    ),
    (
        request_of(clip_low_threshold=floats(0.8, 1.3, 0.8, 0.8)),
        f"{INPUTS}.clip_low_threshold[1]: above clip_high_threshold",
    ),
    (
        request_of(clip_low_threshold=floats(0.8, NAN, 0.8, 0.8)),
        f"{INPUTS}.clip_low_threshold[1]: nan, expected 0 to 1e+06",
    ),
    (ForwardBackwardRequest("m", 1, [], "ppo", {}, False), "data: empty, expected at least one datum"),
    (request_of(tokens=0), "data[1].model_input: empty, expected at least one token"),
    (request_of(tokens=9), "data[1].model_input: 9 tokens, the context length is 8"),
    (
        request_of(advantages=None),
        f"{INPUTS}.advantages: missing; ppo needs target_tokens, logprobs, advantages",
    ),
    (
        request_of("cross_entropy", target_tokens=None),
        f"{INPUTS}.target_tokens: missing; cross_entropy needs target_tokens",
    ),
    (
        request_of("importance_sampling", mask=floats(1, 1, 1, 1)),
        f"{INPUTS}.mask: unknown; importance_sampling takes target_tokens, logprobs, advantages",
    ),
    (
        request_of("cross_entropy", advantages=floats(1, 1, 1, 1)),
        f"{INPUTS}.advantages: unknown; cross_entropy takes target_tokens, weights",
    ),
    (
        request_of(advantages=floats(1, 1, 1)),
        f"{INPUTS}.advantages: 3 rows, expected 4 (one per input token)",
    ),
    (
        request_of("cross_entropy", target_tokens=np.ones(5, np.int64)),
        f"{INPUTS}.target_tokens: 5 rows, expected 4 (one per input token)",
    ),
    (
        request_of(target_tokens=np.ones((4, 2), np.int64), logprobs=np.zeros((4, 2), np.float32)),
        f"{INPUTS}.advantages: shape (4,), expected (4, 2) (the shape of target_tokens)",
    ),
    (
        request_of(
            target_tokens=np.ones((4, 1), np.int64),
            logprobs=np.zeros((4, 1), np.float32),
            advantages=np.zeros((4, 1), np.float32),
        ),
        f"{INPUTS}.target_tokens: shape (4, 1), ppo takes (4,)",
    ),
    (
        request_of("cross_entropy", target_tokens=np.ones((4, 0), np.int64)),
        f"{INPUTS}.target_tokens: shape (4, 0), cross_entropy takes (4,) or (4, K)",
    ),
    (
        request_of("cross_entropy", target_tokens=np.ones((4, 2), np.int64), weights=floats(1, 1, 1, 1)),
        f"{INPUTS}.weights: shape (4,), expected (4, 2) (the shape of target_tokens)",
    ),
    (
        request_of("cross_entropy", target_tokens=floats(1, 1, 1, 1)),
        f"{INPUTS}.target_tokens: float32, expected int64",
    ),
    (
        request_of("cross_entropy", target_tokens=np.array([1, 1, 10, 1])),
        f"{INPUTS}.target_tokens[2]: 10, expected a token id in 0..9",
    ),
    (
        request_of("cross_entropy", target_tokens=np.array([[1, 1], [1, -1], [1, 1], [1, 1]])),
        f"{INPUTS}.target_tokens[1][1]: -1, expected a token id in 0..9",
    ),
    (request_of(advantages=floats(0, 0, INF, 0)), f"{INPUTS}.advantages[2]: inf, expected a finite number"),
    (request_of(logprobs=floats(NAN, 0, 0, 0)), f"{INPUTS}.logprobs[0]: nan, expected a finite number"),
    (
        request_of("cross_entropy", weights=floats(1, NAN, 0, 0)),
        f"{INPUTS}.weights[1]: nan, expected a finite number",
    ),
]


@pytest.mark.parametrize(("request_", "message"), REFUSALS, ids=[message for _, message in REFUSALS])
def test_a_batch_that_cannot_be_trained_on_is_refused(request_, message):
    with pytest.raises(InvalidField) as caught:
        check_forward_backward(request_, vocab_size=10, context_length=8)
    assert str(caught.value) == message


def test_a_token_outside_the_vocabulary_is_refused_in_the_input_too():
    request = request_of()
    request.data[1].tokens[3] = 10
    with pytest.raises(
        InvalidField, match=r"^data\[1\]\.model_input\[3\]: 10, expected a token id in 0\.\.9$"
    ):
        check_forward_backward(request, vocab_size=10, context_length=8)


@pytest.mark.parametrize("loss_fn", ["cispo", "dro", "gspo", "stable_reinforce", "custom"])
def test_the_other_losses_of_the_protocol_are_refused_by_name(loss_fn):
    request = parse_forward_backward(client_bytes([policy_datum()], loss_fn))
    with pytest.raises(
        InvalidField, match=f"^loss_fn: '{loss_fn}' is not supported; supported: cross_entropy"
    ):
        check_forward_backward(request, vocab_size=10, context_length=8)


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_what_each_loss_takes_is_accepted(loss_fn):
    request = request_of(loss_fn, dict.fromkeys(LOSSES[loss_fn].config, 1.0))
    for datum in request.data:
        for name in LOSSES[loss_fn].optional_inputs:
            datum.inputs[name] = floats(1, 1, 1, 1)
    check_forward_backward(request, vocab_size=10, context_length=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.ClearField("model_id"), "model_id: missing"),
        (lambda m: m.ClearField("seq_id"), "seq_id: 0, expected 1 or more"),
        (lambda m: setattr(m, "seq_id", -4), "seq_id: -4, expected 1 or more"),
        (
            lambda m: setattr(m.data[0].model_input.add().image, "data", b"x"),
            "data[0].model_input[1]: image chunk, only text is supported",
        ),
        (
            lambda m: setattr(m.data[0].model_input.add().dmel, "dmel", b"x"),
            "data[0].model_input[1]: dmel chunk, only text is supported",
        ),
        (
            lambda m: m.data[0].model_input.add(),
            "data[0].model_input[1]: empty chunk, only text is supported",
        ),
        (
            lambda m: setattr(m.data[0].model_input[0].encoded_text, "tokens", b"12345"),
            "data[0].model_input[0]: 5 bytes, not a multiple of 4",
        ),
        (
            lambda m: setattr(m.data[0].loss_fn_inputs["advantages"], "dense", b"1234"),
            "data[0].loss_fn_inputs.advantages: 1 numbers, expected 4 (shape [4])",
        ),
    ],
)
def test_a_message_that_cannot_be_read_is_refused(change, message):
    body = wire_pb2.ForwardBackwardRequest.FromString(client_bytes([policy_datum()]))
    change(body)
    with pytest.raises(InvalidField) as caught:
        parse_forward_backward(body.SerializeToString())
    assert str(caught.value) == message


# ---- Cut off ----


def test_every_prefix_of_a_request_is_read_or_refused_and_tells_its_numbers_early():
    body = client_bytes([policy_datum(2)], "ppo", {"clip_low_threshold": 0.5})
    refused = 0
    for length in range(len(body)):
        try:
            parse_forward_backward(body[:length])
        except InvalidField:
            refused += 1
        model_id, seq_id = peek_numbers(body[:length])
        assert model_id == (MODEL_ID if length >= 12 else None)
        assert seq_id == (7 if length >= 14 else None)
    assert refused > len(body) * 0.8


def test_numbers_are_found_in_any_order_between_unknown_fields():
    model_id, seq_id = b"\x0a\x03abc", b"\x10\x96\x01"
    unknown = b"\x7a\x02hi" + b"\x81\x01" + bytes(8) + b"\x8d\x01" + bytes(4) + b"\x90\x01\x05"
    assert peek_numbers(unknown + seq_id + unknown + model_id + b"\x1a\xff\x7f") == ("abc", 150)


@pytest.mark.parametrize("seq_id", [1, 150, 2**31 - 1, -1, -(2**31)])
def test_numbers_are_those_that_a_parser_reads(seq_id):
    message = wire_pb2.ForwardBackwardRequest(model_id="ünï", seq_id=seq_id)
    first = message.SerializeToString()
    assert peek_numbers(first) == ("ünï", seq_id)
    message.seq_id = 9
    assert peek_numbers(first + message.SerializeToString()) == ("ünï", 9)


@pytest.mark.parametrize(
    ("head", "numbers"),
    [
        (b"", (None, None)),
        (b"\x0a\x05abc", (None, None)),  # shorter than it says
        (b"\x0a\x02\xff\xfe\x10\x03", (None, 3)),  # no text
        (b"\x08\x01\x12\x01a", (None, None)),  # the right fields in the wrong types
        (b"\x0b\x10\x03", (None, None)),  # a group: given up
        (b"\x10" + b"\xff" * 11, (None, None)),  # a number that does not end
    ],
)
def test_what_makes_no_sense_ends_the_search(head, numbers):
    assert peek_numbers(head) == numbers


def test_random_bytes_raise_nothing_but_invalid_field():
    noise = np.random.default_rng(0)
    body = client_bytes([policy_datum(2)], "ppo")
    for _ in range(2000):
        damaged = bytearray(body)
        for place in noise.integers(0, len(body), 3):
            damaged[place] = noise.integers(0, 256)
        peek_numbers(bytes(damaged))
        try:
            request = parse_forward_backward(bytes(damaged))
            check_forward_backward(request, vocab_size=10, context_length=8)
        except InvalidField:
            pass
