"""Results are read by the Tinker client's own code as we meant them, and by ours as we wrote them."""

import numpy as np
import pytest
from tinker.lib.chunked_fwdbwd_helpers import combine_fwd_bwd_output_results
from tinker.proto.response_conv import deserialize_forward_backward_output, deserialize_sample_response

from rekindle.types import (
    EMPTY_LOGPROB,
    AltTokens,
    CsrLayout,
    InvalidField,
    SampledSequence,
    TopK,
    decode_forward_backward_output,
    decode_sample_response,
    encode_forward_backward_output,
    encode_sample_response,
    wire_pb2,
)


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


SHAPES = [[(3,), (1,), (5,)], [(3, 2), (4, 2)], [(3,), (2, 4), (2, 4), (1, 2), (6,)], [(2,)], []]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_logprobs_keep_order_and_shape_whatever_the_mixture(shapes):
    logprobs = [rows(*shape) for shape in shapes]
    data = encode_forward_backward_output(logprobs, {"loss:sum": 1.5, "tokens:sum": 3}, "cross_entropy")
    theirs, ours = deserialize_forward_backward_output(data), decode_forward_backward_output(data)
    assert theirs.metrics == ours.metrics == {"loss:sum": 1.5, "tokens:sum": 3}
    assert len(theirs.loss_fn_outputs) == len(ours.outputs) == len(shapes)
    for expected, output, array in zip(logprobs, theirs.loss_fn_outputs, ours.logprobs, strict=True):
        assert output["logprobs"].shape == list(expected.shape)
        np.testing.assert_array_equal(output["logprobs"].to_numpy(), expected)
        np.testing.assert_array_equal(array, expected)


def test_datums_that_agree_share_a_record():
    def record_sizes(*shapes):
        data = encode_forward_backward_output([rows(*shape) for shape in shapes], {"loss:sum": 0}, "ppo")
        records = wire_pb2.ForwardBackwardOutput.FromString(data).loss_fn_outputs
        return [record.num_datums for record in records]

    assert record_sizes((3,), (5,), (1,)) == [3]
    assert record_sizes((3,), (2, 4), (1, 4), (6,)) == [1, 2, 1]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_further_outputs_travel_with_their_datum(shapes):
    logprobs = [rows(*shape) for shape in shapes]
    spreads = [rows(shape[0], 2) for shape in shapes]
    extra = {"entropy": [one[:, 0] for one in spreads], "entropy_variance": [one[:, 1] for one in spreads]}
    data = encode_forward_backward_output(logprobs, {"loss:sum": 1.5}, "ppo", extra)
    theirs, ours = deserialize_forward_backward_output(data), decode_forward_backward_output(data)
    for index, (left, right) in enumerate(zip(theirs.loss_fn_outputs, ours.outputs, strict=True)):
        assert left.keys() == right.keys() == {"logprobs", "entropy", "entropy_variance"}
        for name, arrays in extra.items():
            np.testing.assert_array_equal(left[name].to_numpy(), arrays[index])
            np.testing.assert_array_equal(right[name], arrays[index])


def test_the_client_combines_the_parts_of_a_split_call():
    parts = [
        encode_forward_backward_output([rows(2)] * 3, {"loss:sum": 1.0, "gap:mean": 1.0}, "ppo"),
        encode_forward_backward_output([rows(2)], {"loss:sum": 2.0, "gap:mean": 5.0}, "ppo"),
    ]
    whole = combine_fwd_bwd_output_results([deserialize_forward_backward_output(part) for part in parts])
    assert whole.metrics == {"loss:sum": 3.0, "gap:mean": 2.0}
    assert len(whole.loss_fn_outputs) == 4


@pytest.mark.parametrize("metrics", [{}, {"loss": 1.0}, {"loss:sum": 1.0, "a:b:sum": 1.0}])
def test_metrics_that_would_fail_in_the_client_are_our_bug(metrics):
    with pytest.raises(AssertionError, match=r"colon|loss:sum"):
        encode_forward_backward_output([rows(2)], metrics, "ppo")


def sequence(n: int, k: int = 0, stop_reason="stop") -> SampledSequence:
    topk = TopK(np.arange(n * k, dtype=np.int32).reshape(n, k), rows(n, k)) if k else None
    return SampledSequence(np.arange(n, dtype=np.int32), rows(n), stop_reason, topk)


def test_samples_alone_carry_nothing_that_was_not_asked_for():
    data = encode_sample_response([sequence(3), sequence(1, stop_reason="length")])
    theirs, ours = deserialize_sample_response(data), decode_sample_response(data)
    assert [s.stop_reason for s in theirs.sequences] == ["stop", "length"]
    assert [s.tokens for s in theirs.sequences] == [[0, 1, 2], [0]]
    np.testing.assert_array_equal(theirs.sequences[0].logprobs_np, rows(3))
    assert theirs.sequences[0].topk_logprobs is None
    assert theirs.prompt_logprobs is None and theirs.topk_prompt_logprobs is None
    assert theirs.target_prompt_logprobs is None and theirs.prompt_alt_tokens is None
    assert [s.tokens.tolist() for s in ours.sequences] == [[0, 1, 2], [0]]
    assert [s.stop_reason for s in ours.sequences] == ["stop", "length"]
    assert ours.prompt_logprobs is None and ours.topk_prompt is None
    assert ours.target_prompt_logprobs is None and ours.prompt_alt_tokens is None


def test_everything_that_can_be_asked_for_arrives():
    prompt_logprobs = np.array([np.nan, -1.0, -2.0], np.float32)
    topk = TopK.empty(3, 2)
    topk.token_ids[1:], topk.logprobs[1:] = [[7, 8], [9, 0]], [[-0.1, -0.2], [-0.3, EMPTY_LOGPROB]]
    targets, alternatives = rows(2, 3), AltTokens(np.array([[1, 2], [3, 4]]), rows(2, 2))
    data = encode_sample_response([sequence(2, k=3)], prompt_logprobs, topk, targets, alternatives, 2)
    theirs, ours = deserialize_sample_response(data), decode_sample_response(data)

    assert theirs.prompt_logprobs == [None, -1.0, -2.0]
    assert theirs.topk_prompt_logprobs[0] is None
    assert [[token for token, _ in row] for row in theirs.topk_prompt_logprobs[1:]] == [[7, 8], [9]]
    assert theirs.sequences[0].topk_logprobs_np.token_ids.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert theirs.target_prompt_logprobs.shape == [2, 3]
    np.testing.assert_array_equal(theirs.target_prompt_logprobs.to_numpy(), targets)
    assert theirs.prompt_alt_tokens.tokens.tolist() == [[1, 2], [3, 4]]
    np.testing.assert_array_equal(theirs.prompt_alt_tokens.logprobs.to_numpy(), alternatives.logprobs)
    assert theirs.prompt_cache_hit_tokens == 2

    np.testing.assert_array_equal(ours.prompt_logprobs, prompt_logprobs)
    np.testing.assert_array_equal(ours.topk_prompt.token_ids, topk.token_ids)
    np.testing.assert_array_equal(ours.topk_prompt.logprobs, topk.logprobs)
    np.testing.assert_array_equal(ours.sequences[0].topk.logprobs, rows(2, 3))
    np.testing.assert_array_equal(ours.target_prompt_logprobs, targets)
    np.testing.assert_array_equal(ours.prompt_alt_tokens.tokens, alternatives.tokens)
    assert ours.prompt_cache_hit_tokens == 2


def test_target_logprobs_answer_in_the_sparse_layout_of_the_request():
    layout = CsrLayout(np.array([0, 1, 1, 3]), np.array([4, 0, 2]))
    dense = layout.scatter(np.array([-1.0, -2.0, -3.0], np.float32), (3, 5), 0)
    data = encode_sample_response([sequence(1)], target_prompt_logprobs=dense, target_layout=layout)
    theirs = deserialize_sample_response(data).target_prompt_logprobs
    assert theirs.sparse_crow_indices == [0, 1, 1, 3] and theirs.sparse_col_indices == [4, 0, 2]
    assert theirs.data == [-1.0, -2.0, -3.0] and theirs.shape == [3, 5]
    np.testing.assert_array_equal(decode_sample_response(data).target_prompt_logprobs, dense)


def test_a_sequence_without_tokens_is_our_bug():
    with pytest.raises(AssertionError, match="at least one token"):
        encode_sample_response([sequence(0)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: setattr(m.sequences[0], "tokens", b"123"),
            "sequences[0].tokens: 3 bytes, not a multiple of 4",
        ),
        (
            lambda m: setattr(m.sequences[0], "tokens", b"1234"),
            "sequences[0].logprobs: 2, expected 1 (one per token)",
        ),
        (lambda m: setattr(m.sequences[0], "stop_reason", 5), "sequences[0].stop_reason: 5, expected 0 or 1"),
        (
            lambda m: setattr(m.sequences[0].topk_sampled_logprobs, "k", 4),
            "sequences[0].topk_sampled_logprobs: 6 ids and 6 logprobs, expected (2, 4) each",
        ),
    ],
)
def test_a_damaged_sample_is_refused(change, message):
    response = wire_pb2.SampleResponse.FromString(encode_sample_response([sequence(2, k=3)]))
    change(response)
    with pytest.raises(InvalidField) as caught:
        decode_sample_response(response.SerializeToString())
    assert str(caught.value) == message


@pytest.mark.parametrize("claimed", [-1, 0, 3, 2**62])
def test_a_record_that_claims_another_number_of_datums_is_refused(claimed):
    output = wire_pb2.ForwardBackwardOutput.FromString(
        encode_forward_backward_output([rows(2)] * 2, {"loss:sum": 0}, "ppo")
    )
    output.loss_fn_outputs[0].num_datums = claimed
    with pytest.raises(InvalidField) as caught:
        decode_forward_backward_output(output.SerializeToString())
    assert str(caught.value) == f"loss_fn_outputs[0].logprobs: 2 arrays, expected {claimed}"


def test_every_prefix_of_a_result_is_read_or_refused():
    sample = encode_sample_response([sequence(2, k=3)], rows(4), TopK.empty(4, 2), rows(3, 2))
    output = encode_forward_backward_output([rows(2), rows(3, 2)], {"loss:sum": 0}, "ppo")
    for data, decode in ((sample, decode_sample_response), (output, decode_forward_backward_output)):
        refused = 0
        for length in range(1, len(data)):
            try:
                decode(data[:length])
            except InvalidField:
                refused += 1
        assert refused > len(data) // 2
