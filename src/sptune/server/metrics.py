"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from sptune.engine.serving import Load, Stream
    from sptune.model.selection import Selection

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SHORT_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
MARGINS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """Counters and histograms of one server. Labels are routes, codes and models that exist: their number is bounded.

    Args:
        load: how busy the engine is, asked with every scrape.
    """

    def __init__(self, load: Callable[[], Load]) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("sptune_requests", "Answers.", ["route", "method", "status"], registry=registry)
        self.errors = Counter("sptune_errors", "Errors that clients were told.", ["code"], registry=registry)
        self.seconds = Histogram(
            "sptune_request_seconds", "Time to the end of an answer.", ["route"], buckets=SECONDS, registry=registry
        )
        self.first_token = Histogram(
            "sptune_time_to_first_token_seconds",
            "Time to the first token.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.inter_token = Histogram(
            "sptune_inter_token_seconds", "Time from token to token.", ["model"], buckets=SECONDS, registry=registry
        )
        self.tokens = Counter("sptune_tokens", "Tokens read and generated.", ["model", "kind"], registry=registry)
        self.chosen = Counter(
            "sptune_chosen_prompt", "Replies of a soft prompt.", ["model", "prompt"], registry=registry
        )
        self.margin = Histogram(
            "sptune_selection_margin", "Best score minus second best.", ["model"], buckets=MARGINS, registry=registry
        )
        self.retriever = Histogram(
            "sptune_retriever_seconds",
            "Time to score the prompts.",
            ["model"],
            buckets=SHORT_SECONDS,
            registry=registry,
        )
        self.record_errors = Counter("sptune_record_errors", "Records that could not be written.", registry=registry)
        for name, text, figure in (
            ("sptune_running", "Replies that are being generated.", attrgetter("running")),
            ("sptune_queue_waiting", "Requests that wait for a slot.", attrgetter("waiting")),
            ("sptune_slots", "Replies that can be generated at a time.", attrgetter("slots")),
            ("sptune_queue_limit", "Requests that may wait.", attrgetter("queue_limit")),
        ):
            Gauge(name, text, registry=registry).set_function(partial(_figure, load, figure))

    def started(self, model: str, stream: Stream) -> None:
        """Count a reply whose prompt was chosen."""
        if stream.selection is not None:
            self.selected(model, stream.selection)
            self.retriever.labels(model).observe(stream.selection_seconds)
        self.tokens.labels(model, "prompt").inc(stream.prompt_tokens)

    def selected(self, model: str, selection: Selection) -> None:
        """Count a choice."""
        self.chosen.labels(model, str(selection.prompt)).inc()
        self.margin.labels(model).observe(selection.margin)

    def forget(self, model: str) -> None:
        """Drop what is known of a model that is served no longer."""
        for metric in (self.first_token, self.inter_token, self.tokens, self.chosen, self.margin, self.retriever):
            metric.remove_by_labels({"model": model})

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)


def _figure(load: Callable[[], Load], figure: attrgetter[int]) -> float:
    return float(figure(load()))
