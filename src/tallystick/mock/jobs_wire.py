"""OpenAI's work that is done apart from its request: fine-tuning, assistants' runs, evaluations, films; and decisions.

Each is under way when it is made and at the first look at it, and has ended at the next.
Source: the types of openai 3.54 (``FineTuningJob``, ``Run``, ``RunRetrieveResponse``, ``Video``, ``Decision``,
``Turn``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from tallystick.mock.answers import Answer, Body, Frame, dump, new_id, required
from tallystick.mock.books import FULL_NAMES
from tallystick.mock.thoughts import PromptCache, count_tokens

TRAINED_TOKENS = 90_000
JUDGE = "gpt-4o-2024-08-06"


def job_routes() -> list[BaseRoute]:
    """Return the routes of everything that is looked at later."""
    base = "/openai/v1"
    return [
        Route(f"{base}/fine_tuning/jobs", _tune, methods=["POST"]),
        Route(f"{base}/fine_tuning/jobs/{{id}}", _look_at),
        Route(f"{base}/evals/{{eval_id}}/runs", _evaluate, methods=["POST"]),
        Route(f"{base}/evals/{{eval_id}}/runs/{{id}}", _look_at),
        Route(f"{base}/threads/{{thread_id}}/runs", _run, methods=["POST"]),
        Route(f"{base}/threads/runs", _run, methods=["POST"]),
        Route(f"{base}/threads/{{thread_id}}/runs/{{id}}", _look_at),
        Route(f"{base}/videos/{{id}}", _watch),
        Route(f"{base}/agents/sessions", _open_session, methods=["POST"]),
        Route(f"{base}/agents/sessions/{{session_id}}/events", _session_events, methods=["GET", "POST"]),
        Route(f"{base}/agents/sessions/{{session_id}}/turns/{{id}}", _look_at),
    ]


def decisions(body: Body, options: Mapping[str, str], cache: PromptCache) -> Answer:  # noqa: ARG001 -- nothing is cached
    """Return the answers to questions about an input; billed by tokens, without an id."""
    model = str(required(body, "model"))
    read, written = count_tokens(dump(body.get("input"))) + count_tokens(dump(required(body, "questions"))), 3
    usage = {
        "input_tokens": read,
        "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }
    answers = [{"type": "predicate", "name": None, "probability": 0.9} for _ in body["questions"]]
    return Answer(
        id="",
        model=FULL_NAMES.get(model, model),
        api="decisions",
        body={"answers": answers, "model": FULL_NAMES.get(model, model), "usage": usage},
        output_tokens=written,
        usage_at=lambda _: usage,
        counts_at=lambda _: {"input": read, "output": written},
    )


def _keep(request: Request, ended: dict[str, Any], under_way: Mapping[str, Any]) -> dict[str, Any]:
    """Lay down work as it will have ended, and return how it is now."""
    request.app.state.mock.jobs[ended["id"]] = {"ended": ended, "under_way": under_way, "looks": 0}
    return {**ended, **under_way}


async def _look_at(request: Request) -> Response:
    job = request.app.state.mock.jobs[request.path_params["id"]]
    job["looks"] += 1
    return JSONResponse(job["ended"] | (job["under_way"] if job["looks"] == 1 else {}))


def _bill(
    request: Request, unit_id: str, model: str, api: str, usage: Mapping[str, Any], counts: dict[str, int]
) -> None:
    request.app.state.mock.books.bill(
        unit_id, provider="openai", model=model, api=api, usage=usage, counts=counts, path=request.url.path
    )


async def _tune(request: Request) -> Response:
    body = await request.json()
    method = body.get("method") or {"type": "supervised"}
    job = {
        "id": new_id("ftjob-"),
        "object": "fine_tuning.job",
        "created_at": 1,
        "model": body["model"],
        "method": method,
        "status": "succeeded",
        "fine_tuned_model": f"ft:{body['model']}:mock::1",
        "finished_at": 2,
        "trained_tokens": TRAINED_TOKENS,
        "training_file": body["training_file"],
        "hyperparameters": {},
        "organization_id": "mock",
        "result_files": [],
        "seed": 1,
    }
    if method["type"] == "supervised":
        _bill(request, str(job["id"]), body["model"], "fine_tuning", {}, {"training": TRAINED_TOKENS})
    begun = {"status": "queued", "fine_tuned_model": None, "finished_at": None, "trained_tokens": None}
    return JSONResponse(_keep(request, job, begun))


async def _evaluate(request: Request) -> Response:
    run_id = new_id("evalrun_")
    used = [("gpt-4o-mini-2024-07-18", 700, 300), (JUDGE, 900, 20)]
    usage = [
        {
            "model_name": model,
            "invocation_count": 5,
            "prompt_tokens": read,
            "completion_tokens": written,
            "cached_tokens": 100,
            "total_tokens": read + written,
        }
        for model, read, written in used
    ]
    for model, read, written in used:
        counts = {"input": read - 100, "cache_read": 100, "output": written}
        _bill(request, f"{run_id}/{model}", model, "evals", {}, counts)
    run = {
        "id": run_id,
        "object": "eval.run",
        "eval_id": request.path_params["eval_id"],
        "created_at": 1,
        "model": used[0][0],
        "name": "parcels",
        "status": "completed",
        "per_model_usage": usage,
        "per_testing_criteria_results": [],
        "result_counts": {"errored": 0, "failed": 0, "passed": 5, "total": 5},
        "report_url": "http://127.0.0.1",
        "metadata": {},
        "data_source": {"type": "jsonl"},
        "error": None,
    }
    return JSONResponse(_keep(request, run, {"status": "queued", "per_model_usage": []}))


async def _run(request: Request) -> Response:
    body = await request.json()
    model = FULL_NAMES.get(body["model"], body["model"])
    read, written = 120, 40
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    run = {
        "id": new_id("run_"),
        "object": "thread.run",
        "thread_id": request.path_params.get("thread_id", "thread_1"),
        "assistant_id": body["assistant_id"],
        "model": model,
        "created_at": 1,
        "status": "completed",
        "usage": usage,
        "tools": [],
        "instructions": "",
        "metadata": {},
    }
    _bill(request, str(run["id"]), model, "runs", usage, {"input": read, "output": written})
    queued = _keep(request, run, {"status": "queued", "usage": None})
    if not body.get("stream"):
        return JSONResponse(queued)
    told: list[tuple[str, Mapping[str, Any] | str]] = [
        ("thread.run.created", queued),
        ("thread.run.in_progress", {**queued, "status": "in_progress"}),
        ("thread.run.completed", run),
        ("done", "[DONE]"),
    ]
    return _streamed(Frame(event, data, 0) for event, data in told)


def _streamed(frames: Iterator[Frame]) -> Response:
    return StreamingResponse((frame.encode("\n") for frame in frames), media_type="text/event-stream")


async def _watch(request: Request) -> Response:
    """Show a film: each look tells its length again."""
    told = {"id": request.path_params["id"], "object": "video", "created_at": 1, "model": "sora-2", "progress": 100}
    return JSONResponse(told | {"status": "completed", "seconds": "4", "size": "720x1280"})


async def _open_session(request: Request) -> Response:
    body = await request.json()
    session = {
        "id": new_id("asess_"),
        "object": "agent.session",
        "agent": {"id": "agent_1", "model": body["agent"]["model"]},
        "status": "idle",
        "created_at": 1,
        "last_active_at": 1,
        "metadata": {},
        "required_actions": [],
        "vault_ids": [],
        "environment": {},
        "usage": None,
    }
    request.app.state.mock.agents[str(session["id"])] = session
    return JSONResponse(session)


async def _session_events(request: Request) -> Response:
    """POST: the agent takes a turn.  GET: the turns' events, and the stream ends."""
    session = request.app.state.mock.agents[request.path_params["session_id"]]
    if request.method == "GET":
        return _streamed(Frame(event["type"], event, 0) for event in session.get("events", []))
    usage = {
        "input_tokens": 500,
        "input_tokens_details": {"cached_tokens": 200},
        "output_tokens": 60,
        "output_tokens_details": {"reasoning_tokens": 10},
        "total_tokens": 560,
    }
    model = session["agent"]["model"]
    turn = {
        "id": new_id("turn_"),
        "object": "agent.session.turn",
        "agent_id": "agent_1",
        "session_id": session["id"],
        "created_at": 1,
        "status": "completed",
        "usage": usage,
    }
    counts = {"input": 300, "cache_read": 200, "output": 60}
    _bill(request, str(turn["id"]), FULL_NAMES.get(model, model), "agents", usage, counts)
    _keep(request, turn, {"status": "in_progress", "usage": None})
    base = {"session_id": session["id"], "turn_id": turn["id"]}
    session["events"] = [
        {"type": "agent.session.turn.created", "event_id": "e1", "turn": {**turn, "usage": None}, **base},
        {"type": "agent.session.turn.completed", "event_id": "e2", "turn": turn, "usage": usage, **base},
        {"type": "agent.session.idle", "event_id": "e3", "session_id": session["id"]},
    ]
    return JSONResponse({"object": "list", "data": []})
