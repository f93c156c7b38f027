"""The requests that the page makes. All addresses begin with a secret token."""

import asyncio
import contextlib
import math
import mimetypes
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route

from vitdeblur_jax.utils.buckets import as_user_error
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.web.jobs import DONE, Full, Job, Jobs

_HERE = Path(__file__).parent
_PAGE = {name: _HERE / "page" / name for name in ("page.css", "page.js", "icon.svg")}
EXAMPLES = {path.name: path for path in sorted((_HERE / "examples").glob("*.jpg"))}
_ZIP = "restored.zip"
_ELSEWHERE = "There is no such page. Open the address that `vitdeblur web` printed."


class Files(NamedTuple):
    """How the files of a job are made.

    Attributes:
      name: Cleans the name of an uploaded file.
      previews: The names of the images in a job's folder that the page may show.
      made: Functions of a job and a strength that return the name and the bytes of a file, by the
        name in their addresses.
    """

    name: Callable[[str], str]
    previews: tuple[str, ...]
    made: Mapping[str, Callable[[Job, float], tuple[str, bytes]]]


def make_app(token: str, jobs: Jobs, models: list[str], files: Files) -> Starlette:
    """Creates the application.

    Args:
      token: The secret part of all addresses.
      jobs: The images.
      models: The names of the models.
      files: How files are made.
    """
    requests = _Requests(jobs, models, files)
    routes = [
        Route("/", _page("index.html")),
        *(Route(f"/{name}", _page(name)) for name in _PAGE),
        Route("/state", requests.state),
        Route("/examples/{name}", _example),
        Route("/jobs", requests.add, methods=["POST"]),
        Route("/jobs/{id}", requests.remove, methods=["DELETE"]),
        *(Route(f"/jobs/{{id}}/{name}", requests.preview(name)) for name in files.previews),
        *(Route(f"/jobs/{{id}}/{name}", requests.made(name)) for name in files.made),
        Route("/results.zip", requests.zip),
    ]
    handlers = {UserError: _user_error, HTTPException: _http_error}
    return Starlette(routes=[Mount(f"/{token}", routes=routes)], exception_handlers=handlers)


def _page(name: str):
    def respond(request: Request) -> Response:
        return FileResponse(_HERE / "page" / name)

    return respond


def _example(request: Request) -> Response:
    path = EXAMPLES.get(request.path_params["name"])
    if path is None:
        raise HTTPException(404)
    return FileResponse(path)


def _user_error(request: Request, error: Exception) -> Response:
    status = 503 if isinstance(error, Full) else 400
    return JSONResponse({"error": str(error)}, status_code=status, headers={"Connection": "close"})


def _http_error(request: Request, error: Exception) -> Response:
    return PlainTextResponse(_ELSEWHERE, status_code=error.status_code)


class _Requests:
    def __init__(self, jobs: Jobs, models: list[str], files: Files):
        self._jobs, self._models, self._files = jobs, models, files
        self._making = asyncio.Lock()  # one file is made at a time, which bounds the memory

    async def state(self, request: Request) -> Response:
        return JSONResponse(
            {
                "models": self._models,
                "examples": list(EXAMPLES),
                "limits": self._jobs.limits._asdict(),
                "jobs": [job.description() for job in self._jobs.all()],
            }
        )

    async def add(self, request: Request) -> Response:
        name = self._files.name(request.query_params.get("name", ""))
        model = request.query_params.get("model", "0")
        if model not in map(str, range(len(self._models))):
            raise UserError(f"there is no model {model}")
        size = int(request.headers.get("content-length", 0))
        _check_size(name, size, self._jobs.limits)
        try:
            with as_user_error(name, "stored"):
                job = self._jobs.add(name, int(model), size)
        except UserError:
            await _drain(request)
            raise
        try:
            with as_user_error(name, "stored"):
                await _store(request, job, self._jobs.limits)
            self._jobs.check_room(name)  # the size may not have been known before
        except BaseException as error:
            self._jobs.remove(job)
            if isinstance(error, ClientDisconnect):
                return Response(status_code=400)  # nobody reads it
            if isinstance(error.__cause__, OSError):
                await _drain(request)
            raise
        self._jobs.enqueue(job)
        return JSONResponse(job.description(), status_code=201)

    async def remove(self, request: Request) -> Response:
        job = self._find(request)
        await run_in_threadpool(self._jobs.remove, job)
        return Response(status_code=204)

    def preview(self, name: str):
        def respond(request: Request) -> Response:
            path = self._find(request).folder / name
            try:
                # Unlike FileResponse, it can be read to its end when another tab removes the image.
                file = open(path, "rb")  # noqa: SIM115
            except OSError as error:  # not yet there, or removed
                raise HTTPException(404) from error
            size = os.fstat(file.fileno()).st_size
            headers = {"Content-Length": str(size)}
            media_type = mimetypes.guess_type(name)[0]
            return StreamingResponse(_chunks(file), headers=headers, media_type=media_type)

        return respond

    def made(self, kind: str):
        async def respond(request: Request) -> Response:
            job = self._find(request)
            if job.state != DONE:
                raise HTTPException(404)
            strength = _strength(request.query_params)
            async with self._making:
                if await request.is_disconnected():
                    return Response(status_code=400)  # nobody reads it
                name, content = await run_in_threadpool(self._make, kind, job, strength)
            media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
            return Response(content, headers=_attachment(name), media_type=media_type)

        return respond

    async def zip(self, request: Request) -> Response:
        chosen = [(self._jobs.find(job_id), job_id) for job_id in request.query_params]
        chosen = [(job, job_id) for job, job_id in chosen if job and job.state == DONE]
        if not chosen:
            raise HTTPException(404)
        strengths = [_strength(request.query_params, job_id) for _, job_id in chosen]
        jobs = [job for job, _ in chosen]
        async with self._making:
            if await request.is_disconnected():
                return Response(status_code=400)
            path = await run_in_threadpool(self._zipped, jobs, strengths)
        return _OnceResponse(path, headers=_attachment(_ZIP))

    def _zipped(self, jobs: list[Job], strengths: list[float]) -> Path:
        made = (self._make("result", *pair) for pair in zip(jobs, strengths, strict=True))
        with as_user_error(_ZIP, "written"):
            return _write_zip(made, jobs[0].folder.parent)

    def _make(self, kind: str, job: Job, strength: float) -> tuple[str, bytes]:
        try:
            with as_user_error(job.name, "written"):
                return self._files.made[kind](job, strength)
        except UserError as error:
            if self._jobs.find(job.id) is None:  # removed meanwhile
                raise HTTPException(404) from error
            raise

    def _find(self, request: Request) -> Job:
        job = self._jobs.find(request.path_params["id"])
        if job is None:
            raise HTTPException(404)
        return job


class _OnceResponse(FileResponse):
    """Deletes its file in the end, also if the browser is closed before."""

    async def __call__(self, scope, receive, send):
        try:
            await super().__call__(scope, receive, send)
        finally:
            Path(self.path).unlink(missing_ok=True)


def _check_size(name, size, limits):
    if size > limits.upload_bytes:
        raise UserError(
            f"{name}: the file has {math.ceil(size / 2**20 * 10) / 10} MiB; the limit is "
            f"{limits.upload_bytes / 2**20:g} MiB"
        )


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(2**20):
            yield chunk


async def _store(request: Request, job: Job, limits) -> None:
    size = 0
    with open(job.upload, "wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            _check_size(job.name, size, limits)
            file.write(chunk)


async def _drain(request: Request) -> None:
    """Reads the rest of a request: browsers may not read an answer that comes earlier."""
    with contextlib.suppress(ClientDisconnect):
        async for _ in request.stream():
            pass


def _strength(values: Mapping[str, str], key: str = "strength") -> float:
    try:
        return float(values.get(key, "1"))
    except ValueError as error:
        raise UserError(f"strength is {values[key]!r}; it must be a number from 0 to 1") from error


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}


def _write_zip(files, folder: Path) -> Path:
    """Writes a ZIP without compression, which images have already."""
    taken: set[str] = set()
    target = tempfile.NamedTemporaryFile(dir=folder, suffix=".zip", delete=False)  # noqa: SIM115
    try:
        with target, zipfile.ZipFile(target, "w") as archive:
            for name, content in files:
                archive.writestr(_vacant(name, taken), content)
    except BaseException:
        Path(target.name).unlink(missing_ok=True)
        raise
    return Path(target.name)


def _vacant(name: str, taken: set[str]) -> str:
    """Returns the name, or with a number if it is taken, also where case does not count."""
    path, number = PurePosixPath(name), 1
    while name.lower() in taken:
        number += 1
        name = f"{path.stem} ({number}){path.suffix}"
    taken.add(name.lower())
    return name
