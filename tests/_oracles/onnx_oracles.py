"""What an ONNX model computes, by other programs than ours."""

from onnx.reference import ReferenceEvaluator

CLOSE = dict(rtol=1e-4, atol=1e-4)  # float32 sums in another order, through several layers


def outputs_of(model, x):
    """By onnxruntime if it is there: faster, and what users run."""
    feed = {model.graph.input[0].name: x}
    try:
        import onnxruntime
    except ImportError:
        return ReferenceEvaluator(model).run(None, feed)[0]
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)[0]
