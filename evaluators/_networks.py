"""Checks that a network is causal: only one that continues a text token by token has meaningful text scores."""

from typing import Any

from evaluators.base import EvaluatorError


def check_continues_text(network: Any) -> None:
    """Raise EvaluatorError for a network that is not a causal language model, or that cannot generate.

    network: a transformers model, with or without weights; other objects pass. The decision uses its class, its
    configuration and its attention layers.
    """
    reason = _objection(network) if hasattr(network, "can_generate") else None
    if reason is not None:
        raise EvaluatorError(
            f"{type(network).__name__} is not a causal language model: {reason}. Tasks that read or write text from "
            "left to right need one; score this model with sequence_classification, image_classification, "
            "embedding_retrieval or an evaluator of your own (callable)."
        )


def _objection(network: Any) -> str | None:
    """Return why a network does not continue a text; None if it does."""
    if getattr(network.config, "is_encoder_decoder", False):
        return "it is an encoder-decoder, which reads one text and writes another"
    if network.main_input_name != "input_ids":
        return f"it reads {network.main_input_name}, not tokens"
    if network.get_output_embeddings() is None:
        return "it has no output embeddings and predicts no tokens"
    if not network.can_generate():
        return "it cannot generate text"
    if _sees_what_follows(network):
        return "its attention sees the tokens that it should predict (is_decoder or causal attention is not set)"
    return None


def _sees_what_follows(network: Any) -> bool:
    """Return whether no attention layer of the text part is causal."""
    if hasattr(network.config, "causal"):  # XLM
        return not network.config.causal
    reader = network.get_decoder() if hasattr(network, "get_decoder") else network
    modules = list((reader or network).modules())
    for flag in ("is_causal", "is_decoder"):
        flags = [getattr(module, flag) for module in modules if hasattr(module, flag)]
        if flags:
            return not any(flags)
    return getattr(network.config, "attn_type", None) == "bi"  # XLNet
