"""/docs: Swagger UI on this server's /openapi.json, from files of an installed package. No request leaves the machine."""

from __future__ import annotations

import html
import importlib.util
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, Response

from steadyvoice.errors import NotFound

# Paths are relative, so that the page works below a prefix of a reverse proxy. The start is a file of its own because a
# Content-Security-Policy may forbid scripts within the page.
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="docs/swagger-ui.css"><link rel="icon" href="data:,">
</head><body><div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script>
</body></html>
"""
# Swagger UI would send the schema's address to a validator on a foreign host.
START = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null, queryConfigEnabled: false,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
});
"""
FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
KEPT = {"Cache-Control": "public, max-age=3600"}


def add_documentation(app: FastAPI) -> None:
    """The page and its files."""
    folder = _static_folder()

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(PAGE.format(title=html.escape(app.title)))

    @app.get("/docs/{name}", include_in_schema=False)
    async def docs_file(name: str) -> Response:
        if name == "start.js":
            return Response(START, media_type="text/javascript")
        if name not in FILES:
            raise NotFound("there is no such file")
        return FileResponse(folder / name, media_type=FILES[name], headers=KEPT)


def _static_folder() -> Path:
    """Where the package fastapi-offline keeps Swagger UI. It is found without being imported: only its files are used."""
    spec = importlib.util.find_spec("fastapi_offline")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "static"
