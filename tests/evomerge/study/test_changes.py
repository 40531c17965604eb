"""What a resumed study may have changed."""

from evomerge.study.changes import differences


def test_batch_tokens_may_change() -> None:
    old = {"seed": 3, "tasks": {"a.b": {"evaluator": "perplexity", "batch_tokens": 4096}, "c": {"window": 20}}}
    new = {"seed": 3, "tasks": {"a.b": {"evaluator": "perplexity"}, "c": {"window": 30, "batch_tokens": 16}}}
    assert differences(old, new) == ("tasks.c.window: 20 -> 30",)
    assert differences({"batch_tokens": 1}, {"batch_tokens": 2}) == ("batch_tokens: 1 -> 2",)
