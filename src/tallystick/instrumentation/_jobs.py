"""What is told of work that is done apart from its request: runs, fine-tuning, evaluations, films, agents, dreams.

Such work is asked for once and looked at many times, and what it costs is told late, again at each look, and often as a
sum that grows.  So each unit carries the id of the work itself: the ledger counts it once, and of two tellings the
larger.  Source: the types of anthropic 2.12 and openai 3.54.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from tallystick.instrumentation._routes import Route
from tallystick.instrumentation._wire import Answer, StreamReader, read_body
from tallystick.model.failures import Outcome

PART_S = 30.0
"""An agent's events may be followed for hours: what was told by then goes on a span this often."""
OWNERS_MAX = 4096

_ENDED = frozenset({"completed", "succeeded", "failed", "cancelled", "canceled", "expired", "incomplete"})
_TURN_ENDS = (b'"agent.session.turn.completed"', b'"agent.session.turn.failed"', b'"agent.session.turn.cancelled"')


class Owners:
    """Which model works in a session, thread or subagent: its events say what was used, not by whom."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._lock = threading.RLock()

    def learn(self, body: Mapping[str, Any]) -> None:
        """Take what a session, thread or subagent tells of its agent's model: a name, or an object that has it."""
        agent = _mapping(body.get("agent"))
        model = agent.get("model")
        known = {"id": model} if isinstance(model, str) else _mapping(model)
        owner = body.get("id")
        if isinstance(owner, str) and isinstance(known.get("id"), str):
            with self._lock:
                self._known[owner] = known
                while len(self._known) > OWNERS_MAX:
                    self._known.popitem(last=False)

    def tell(self, answer: Answer, owner: str | None) -> Answer:
        """Return ``answer`` with the model that ``owner`` works with, and where that is run."""
        known = self._known.get((owner or "").rpartition("/")[2], {})
        answer.model, answer.geo = known.get("id"), known.get("inference_geo")
        return answer


owners = Owners()


def read_job(route: Route, body: Mapping[str, Any]) -> list[Answer]:
    """Return the answers in a whole body; pending ones for work that has told nothing to pay for yet."""
    return _READERS[route.reads](route, body) or [Answer(is_pending=True)]


def _film(_: Route, body: Mapping[str, Any]) -> list[Answer]:
    """A film is billed by its length and size, which are known when it is asked for; that it will be made is not."""
    answer = read_body(body)
    answer.is_pending, answer.is_estimated = False, True
    answer.usage = {"video_seconds": body.get("seconds"), "size": body.get("size")}
    return [answer]


def _run(_: Route, body: Mapping[str, Any]) -> list[Answer]:
    """An assistant's run tells its usage when it has ended."""
    answer = read_body(body)
    status = body.get("status")
    answer.is_pending = answer.usage is None
    if status == "failed":
        answer.error_code = _mapping(body.get("last_error")).get("code")
    elif status == "expired":
        answer.outcome = Outcome.TIMEOUT_SERVER
    return [answer]


def _tuning(_: Route, body: Mapping[str, Any]) -> list[Answer]:
    """A fine-tuning job tells the tokens that it was trained on when it has ended."""
    answer = read_body(body)
    trained = body.get("trained_tokens")
    answer.is_pending = trained is None
    answer.usage = {"trained_tokens": trained, "method": _mapping(body.get("method")).get("type") or "supervised"}
    return [answer]


def _evaluation(_: Route, body: Mapping[str, Any]) -> list[Answer]:
    """An evaluation tells the usage of each model that it asked, when it has ended."""
    if body.get("status") not in _ENDED:
        return []
    return [
        Answer(
            id=f"{body.get('id')}/{used.get('model_name')}", model=used.get("model_name"), usage=dict(used), api="chat"
        )
        for used in _objects(body.get("per_model_usage"))
    ]


def _dream(_: Route, body: Mapping[str, Any]) -> list[Answer]:
    """A dream's counts grow while it runs, and may after it was cancelled."""
    answer = Answer(id=body.get("id"), model=_mapping(body.get("model")).get("id"))
    answer.usage = dict(_mapping(body.get("usage")))
    answer.is_pending = not any(answer.usage.values())
    answer.is_estimated = body.get("status") not in _ENDED
    return [answer]


def _session(_: Route, body: Mapping[str, Any]) -> list[Answer]:
    """A session tells which model works in it, and for how long it has been at work, which is billed by itself."""
    listed = _objects(body.get("data"))
    for told in listed or [body]:
        owners.learn(told)
    return [] if listed else _runtime(str(body.get("id")), _mapping(body.get("usage")))


def _runtime(session: str, usage: Mapping[str, Any]) -> list[Answer]:
    """Return the time that a session was at work; its tokens are sums of what each model request tells."""
    if not usage.get("active_seconds"):
        return []
    active = {"active_seconds": usage["active_seconds"]}
    return [owners.tell(Answer(id=f"{session}/runtime", usage=active, api="sessions"), session)]


def _events(route: Route, body: Mapping[str, Any]) -> list[Answer]:
    return [answer for event in _objects(body.get("data")) if (answer := read_event(route, event)) is not None]


def read_event(route: Route, event: Mapping[str, Any]) -> Answer | None:
    """Return the answer in one event of Anthropic's sessions, None for one that is not billed."""
    if event.get("type") == "span.model_request_end":
        usage = dict(_mapping(event.get("model_usage")))
        if not any(isinstance(count, int) and count for count in usage.values()):
            return None
        answer = owners.tell(Answer(id=event.get("id"), usage=usage, api="messages"), route.owner)
        # Writes to the cache are dearer when they last an hour, and these events do not say how long they last.
        answer.is_estimated = bool(usage.get("cache_creation_input_tokens"))
        return answer
    if event.get("type") == "session.usage":
        session = (route.owner or "").partition("/")[0]
        return next(iter(_runtime(session, _mapping(event.get("usage")))), None)
    return None


def _turns(route: Route, body: Mapping[str, Any]) -> list[Answer]:
    turns = [body, *_objects(body.get("data"))]
    return [answer for turn in turns if (answer := read_turn(route, turn)) is not None]


def read_turn(route: Route, turn: Mapping[str, Any]) -> Answer | None:
    """Return what a turn of OpenAI's agents used; OpenAI calls its own figure best effort."""
    usage = turn.get("usage")
    if turn.get("object") != "agent.session.turn" or not isinstance(usage, Mapping):
        return None
    answer = Answer(id=turn.get("id"), usage=dict(usage), api="responses", is_estimated=True)
    return owners.tell(answer, turn.get("subagent_id") or turn.get("session_id") or route.owner)


_READERS: dict[str, Callable[[Route, Mapping[str, Any]], list[Answer]]] = {
    "job": _film,
    "run": _run,
    "tuning": _tuning,
    "evaluation": _evaluation,
    "dream": _dream,
    "session": _session,
    "events": _events,
    "turns": _turns,
}
READS = frozenset(_READERS)


class RunStream(StreamReader):
    """An assistant's run: each state that it comes to is an event with the whole run; ``[DONE]`` ends it."""

    def on_data(self, event: bytes, data: bytes) -> None:
        if data[:6] == b"[DONE]":
            self.finish()
        elif event == b"error":
            self.fail(_json(data))
        elif event.startswith(b"thread.run.") and not event.startswith(b"thread.run.step."):
            [self.answer] = _run(_ANY_RUN, _json(data))
        elif event.endswith(b".delta"):
            self.first_content = True


_ANY_RUN = Route("invoke_agent", "runs", reads="run")


class EventStream(StreamReader):
    """The events of an agent's session, of either provider: followed for as long as the app likes.

    Nothing is lost for who leaves: the events are kept, and can be listed.
    """

    def __init__(self, route: Route, full: Callable[[list[Answer]], None]) -> None:
        super().__init__()
        self._route = route
        self._full = full
        self._told: dict[str | None, Answer] = {}
        self._told_s = time.monotonic()

    @property
    def is_settled(self) -> bool:
        """Whether nothing is missed by who leaves."""
        return True

    @property
    def answers(self) -> list[Answer]:
        """What was told since the last part."""
        return list(self._told.values())

    def on_data(self, event: bytes, data: bytes) -> None:
        self.first_content = True
        if b'"span.model_request_end"' in data or b'"session.usage"' in data:
            self._take(read_event(self._route, _json(data)))
        elif any(end in data for end in _TURN_ENDS):
            told = _json(data)
            turn = dict(_mapping(told.get("turn")))
            turn["usage"] = turn.get("usage") or told.get("usage")
            self._take(read_turn(self._route, turn))
        elif b'"agent.session.created"' in data:
            owners.learn(_mapping(_json(data).get("session")))

    def _take(self, answer: Answer | None) -> None:
        if answer is not None:
            self._told[answer.id] = answer  # of a sum that grows, the last word counts
        if self._told and time.monotonic() - self._told_s > PART_S:
            taken, self._told = self.answers, {}
            self._told_s = time.monotonic()
            self._full(taken)

    def end(self) -> None:
        """A session's stream ends when the session does."""
        super().end()
        self.complete = True


def _json(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
