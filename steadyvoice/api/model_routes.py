"""GET /v1/models: the running engine by its own name and by OpenAI's names. Knows HTTP and the engine's spec."""

from __future__ import annotations

from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field

from steadyvoice.api.openapi import errors
from steadyvoice.engine_specs import EngineSpec, model_names
from steadyvoice.errors import ModelNotFound
from steadyvoice.service.service import Service


class Model(BaseModel):
    """A name that a request may give in `model`."""

    id: str
    object: Literal["model"]
    created: int = Field(description="Unix time; 0: not known.")
    owned_by: str
    kind: Literal["recognition", "synthesis"]
    alias_of: str | None = Field(description="The engine that answers to this name, where it is not the engine's own.")
    languages: list[str]
    embedded: bool = Field(description="Needs no weights and no network.")
    license: str
    note: str = Field(description="What one should know before trusting the answers.")
    translates: bool = Field(description="`/v1/audio/translations` works.")
    scores: bool = Field(description="`avg_logprob`, `no_speech_prob`, `tokens` and `logprobs` are the engine's own figures.")
    revision: str
    state: str = Field(description="Of the model: whether it is loaded.")


class ModelList(BaseModel):
    """The engine first, then its other names."""

    object: Literal["list"]
    data: list[Model]


def add_model_routes(app: FastAPI, service: Service) -> None:
    def model(name: str) -> Model:
        spec = service.spec
        return Model(
            id=name,
            object="model",
            created=0,
            owned_by="steadyvoice",
            kind=spec.kind,
            alias_of=None if name == spec.name else spec.name,
            languages=list(spec.languages),
            embedded=spec.embedded,
            license=spec.license,
            note=spec.note_en,
            translates=spec.translates,
            scores=spec.scores,
            revision=service.revision,
            state=service.engine.status().state.value,
        )

    @app.get("/v1/models", operation_id="list_models", tags=["models"], responses=errors())
    async def models() -> ModelList:
        """The running engine, and OpenAI's model names that stand for it."""
        return ModelList(object="list", data=[model(name) for name in model_names(service.spec)])

    @app.get("/v1/models/{model_id}", operation_id="retrieve_model", tags=["models"], responses=errors(404))
    async def retrieve(model_id: str) -> Model:
        """One of them."""
        check_model(model_id, service.spec)
        return model(model_id)


def check_model(name: str, spec: EngineSpec) -> None:
    """An empty name is the running engine.

    Raises:
        ModelNotFound: the name is neither the engine's nor one of those that stand for it.
    """
    known = model_names(spec)
    if name and name not in known:
        raise ModelNotFound(f"the model {name[:64]!r} does not exist; known here: {', '.join(known)}", param="model")
