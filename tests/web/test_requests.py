"""What the server answers, and what it refuses; nothing is restored here."""

import contextlib
import errno
import http.client
import io
import os
import socket
import threading
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.waiting import wait_until
from tests.web.served import TOKEN, served
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.web.images import file_name
from vitdeblur_jax.web.jobs import Limits
from vitdeblur_jax.web.serve import FILES

GRAY = np.full((4, 6, 3), 100, np.uint8)


def png() -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(GRAY).save(encoded, "png")
    return encoded.getvalue()


def keep_white(job, check_room):
    """Restores any image to white."""
    np.ones(GRAY.shape, np.float32).tofile(job.folder / "restored")


@pytest.fixture
def page(tmp_path):
    with served(tmp_path, keep_white) as page:
        yield page


@pytest.fixture
def held(tmp_path):
    """A server whose first image is restored until it is cancelled or `held.set()`."""
    let_go = threading.Event()

    def hold(job, check_room):
        job.total = 2
        job.advance(1)
        while not let_go.wait(0.01):
            job.advance()

    with served(tmp_path, hold, Limits(waiting=2, images=4)) as page:
        yield page, let_go
        let_go.set()


def test_the_page_loads_only_its_own_files(page):
    for name, kind in (("", "text/html"), ("page.js", "javascript"), ("page.css", "text/css")):
        answer = page.ask("GET", name)
        assert answer.status == 200
        assert kind in answer.headers["Content-Type"]
        assert b"//" not in answer.body.replace(b"// ", b"")  # no address of another host
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("path", ["", "state", "jobs/x/result", "page.js"])
@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "x"])
def test_nothing_is_served_without_the_token(page, token, path):
    answer = page.ask("GET", path, token=token)
    assert answer.status == 404
    assert b"Open the address that `vitdeblur web` printed" in answer.body


@pytest.mark.parametrize(
    "path", ["../app.py", "%2e%2e/app.py", "examples/..%2f..%2fapp.py", "examples/%2fetc%2fpasswd"]
)
def test_no_other_file_is_served(page, path):
    assert page.ask("GET", path).status == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "192.168.0.1:1", None]
)
def test_other_hosts_are_refused(page, host):
    assert page.ask("GET", "", Host=host and host.format(port=page.port)).status in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1:80", "[::1]:80"])
def test_this_machine_under_any_port_is_accepted(page, host):  # a port may be forwarded
    assert page.ask("GET", "", Host=host).status == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1", None]
)
def test_foreign_origins_change_nothing(page, origin):
    origin = origin and origin.format(port=page.port)
    assert page.upload("a.png", png(), Origin=origin).status == 403
    assert page.listed() == []
    job = page.add("a.png", png())
    assert page.ask("DELETE", f"jobs/{job}", Origin=origin).status == 403
    assert len(page.listed()) == 1


def test_a_server_for_other_machines_takes_addresses_but_no_foreign_names(tmp_path):
    with served(tmp_path, keep_white, host="0.0.0.0") as page:
        assert page.ask("GET", "", Host="192.168.0.7:7870").status == 200
        assert page.ask("GET", "", Host="evil.example:7870").status == 403


def test_a_large_upload_is_refused_and_leaves_nothing(tmp_path):
    with served(tmp_path, keep_white, Limits(upload_bytes=2**20)) as page:
        answer = page.upload("a.png", bytes(2**20 + 1))
        assert answer.status == 400
        assert answer.error == "a.png: the file has 1.1 MiB; the limit is 1 MiB"
        chunked = b"100001\r\n" + bytes(2**20 + 1) + b"\r\n0\r\n\r\n"  # no length in the header
        answer = page.upload("a.png", chunked, Transfer_Encoding="chunked")
        assert answer.status == 400
        assert page.listed() == []
        assert list(tmp_path.iterdir()) == []


def test_an_upload_that_breaks_off_leaves_nothing(page, tmp_path, capfd):
    host = f"127.0.0.1:{page.port}"
    head = f"POST /{TOKEN}/jobs?name=a HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n"
    with socket.create_connection(("127.0.0.1", page.port)) as connection:
        connection.sendall(f"{head}Content-Length: 100\r\n\r\nhalf".encode())
        wait_until(lambda: page.states() == ["uploading"])
    wait_until(lambda: page.states() == [])
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


def test_the_queue_is_bounded_and_in_order(held):
    page, let_go = held
    for name in "abc":
        page.add(name)
        wait_until(lambda: page.states()[0] == "running")
    assert page.states() == ["running", "waiting", "waiting"]
    answer = page.upload("d")
    assert (answer.status, answer.error) == (
        503,
        "d: 2 images wait already; try again when one is done",
    )
    let_go.set()
    assert [job["name"] for job in page.finish()] == ["a", "b", "c"]
    page.add("d")
    assert page.upload("e").error == "e: there are 4 images already; remove some"


def test_cancel(held, tmp_path):
    page, let_go = held
    first = page.add("a")
    wait_until(lambda: page.states() == ["running"])
    second, third = page.add("b"), page.add("c")
    assert page.ask("DELETE", f"jobs/{second}").status == 204  # while it waits
    assert page.ask("DELETE", f"jobs/{first}").status == 204  # while it runs
    wait_until(lambda: page.states() == ["running"])
    assert [job["id"] for job in page.listed()] == [third]
    wait_until(lambda: [path.name for path in tmp_path.iterdir()] == [third])
    assert page.ask("GET", f"jobs/{first}/result").status == 404
    assert page.ask("DELETE", f"jobs/{first}").status == 404
    let_go.set()
    assert [job["state"] for job in page.finish()] == ["done"]


def test_progress_and_time_left(held):
    page, let_go = held
    page.add("a")
    wait_until(lambda: page.listed()[0]["progress"] == 0.5)
    (job,) = page.listed()
    assert (job["state"], job["seconds_left"]) == ("running", None)
    page.jobs.find(job["id"]).total = 4
    time.sleep(0.05)
    page.jobs.find(job["id"]).advance(1)
    (job,) = page.listed()
    assert job["progress"] == 0.5
    assert job["seconds_left"] >= 2 * 0.05  # one tile took that long, and two are left
    let_go.set()


def test_errors_are_those_of_the_command_line(tmp_path, capsys):
    errors = {"a": UserError("a: what is wrong"), "b": KeyError("a bug"), "c": MemoryError("")}

    def fail(job, check_room):
        raise errors[job.name]

    with served(tmp_path, fail) as page:
        for name in errors:
            page.add(name)
        said = [job["error"] for job in page.finish()]
        states = page.states()
    assert states == ["failed"] * 3
    assert said[0] == "a: what is wrong"
    assert said[1] == "b: unexpected error, see the terminal (KeyError)"
    assert said[2].startswith("this machine has too little memory")
    assert "KeyError: 'a bug'" in capsys.readouterr().err


def no_space(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["pathlib.Path.mkdir", "vitdeblur_jax.web.app._store"])
def test_a_full_disk_during_an_upload(page, tmp_path, monkeypatch, capfd, where):
    monkeypatch.setattr(where, no_space)
    answer = page.upload("a.png", png())
    assert (answer.status, answer.error) == (
        400,
        "a.png: cannot be stored (No space left on device)",
    )
    assert page.listed() == []
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


def test_a_full_disk_when_a_zip_is_written(page, tmp_path, monkeypatch, capfd):
    job = page.add("a.png", png())
    page.finish()
    monkeypatch.setattr("zipfile.ZipFile.writestr", no_space)
    answer = page.ask("GET", f"results.zip?{job}=1")
    assert answer.status == 400
    assert answer.error == "restored.zip: cannot be written (No space left on device)"
    assert [path.name for path in tmp_path.iterdir()] == [job]
    assert capfd.readouterr().err == ""


def test_disk_space_is_bounded(tmp_path):
    def check(job, check_room):
        check_room(job.name, 2**30 if job.name == "large" else 0)

    with served(tmp_path, check, Limits(stored_bytes=2**30)) as page:
        page.add("small", bytes(1000))
        page.add("large", bytes(1000))
        small, large = page.finish()
    assert small["state"] == "done"
    assert large["error"].startswith("large: the images and results take over 1 GiB on disk; ")


def test_uploads_that_are_not_finished_take_disk_space(tmp_path):
    with served(tmp_path, keep_white, Limits(stored_bytes=1000)) as page:
        first = page.jobs.add("first", 0, 600)
        refused = page.upload("second", bytes(500))
        assert refused.status == 503
        assert refused.error.startswith("second: the images and results take over ")
        page.jobs.remove(first)
        page.add("second", bytes(500))
        chunked = b"1f5\r\n" + bytes(501) + b"\r\n0\r\n\r\n"  # no length in the header
        assert page.upload("third", chunked, Transfer_Encoding="chunked").status == 503
        assert [job["name"] for job in page.listed()] == ["second"]
        assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_was_removed_takes_no_disk_space(tmp_path):
    with served(tmp_path, keep_white) as page:
        page.jobs.add("a", 0, 0).folder.rmdir()
        page.jobs.check_room("b")


def test_download(page):
    job = page.add("../é \\ photo.png", png())
    page.finish()
    answer = page.ask("GET", f"jobs/{job}/result?strength=0.2")
    name = "filename*=UTF-8''%20photo_restored.png"
    assert answer.headers["Content-Disposition"] == f"attachment; {name.replace('%20', '', 1)}"
    assert answer.headers["Content-Type"] == "image/png"
    pixels = np.asarray(Image.open(io.BytesIO(answer.body)))
    assert (pixels == 131).all()  # 0.2 * 255 + 0.8 * 100
    for wrong in ("2", "-1", "nan", "x"):
        answer = page.ask("GET", f"jobs/{job}/result?strength={wrong}")
        assert answer.status == 400
        assert "must be" in answer.error
    assert page.ask("GET", f"jobs/{job}/before.png").status == 404
    assert page.ask("POST", "jobs?name=a&model=7", b"").error == "there is no model 7"


def test_a_preview_is_sent_whole_though_its_image_is_removed(page):
    job = page.jobs.find(page.add("a.png", png()))
    page.finish()
    with open(job.folder / "before.png", "wb") as file:
        file.truncate(2**25)  # more than the sockets hold
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", f"/{TOKEN}/jobs/{job.id}/before.png")
        answer = connection.getresponse()
        page.jobs.remove(job)
        assert len(answer.read()) == 2**25
    assert answer.headers["Content-Type"] == "image/png"


def test_a_download_of_an_image_that_is_removed_meanwhile(page, monkeypatch, capfd):
    def remove_and_read(job, strength):
        page.jobs.remove(job)
        return job.name, job.upload.read_bytes()

    monkeypatch.setitem(FILES.made, "result", remove_and_read)
    job = page.add("a.png", png())
    page.finish()
    assert page.ask("GET", f"jobs/{job}/result").status == 404
    assert capfd.readouterr().err == ""


def test_files_that_nobody_waits_for_are_not_made(page, monkeypatch):
    made, let_go = [], threading.Event()

    def hold(job, strength):
        made.append(strength)
        let_go.wait(30)
        return job.name, b""

    monkeypatch.setitem(FILES.made, "change", hold)
    job = page.add("a.png", png())
    page.finish()
    with contextlib.ExitStack() as stack:
        stack.callback(let_go.set)
        for number in range(45):  # more than the server has threads
            connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
            stack.enter_context(contextlib.closing(connection))
            connection.request("GET", f"/{TOKEN}/jobs/{job}/change?strength={number / 100}")
        wait_until(lambda: made)
        assert page.ask("GET", "page.css").status == 200
    assert page.ask("GET", f"jobs/{job}/change?strength=0.9").status == 200
    assert len(made) < 10
    assert made[-1] == 0.9


def test_zip(page, tmp_path):
    assert page.ask("GET", "results.zip").status == 404
    ids = [page.add(name, png()) for name in ("a.png", "A.png", "b.webp")]
    page.finish()
    query = f"{ids[0]}=0&{ids[1]}=1&{ids[2]}=1&unknown=1"
    answer = page.ask("GET", f"results.zip?{query}")
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.namelist() == ["a_restored.png", "A_restored (2).png", "b_restored.webp"]
        pixels = [np.asarray(Image.open(archive.open(name))) for name in archive.namelist()]
    assert (pixels[0] == 100).all()
    assert (pixels[1] == 255).all()
    wait_until(lambda: not list(tmp_path.glob("*.zip")))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("photo.jpg", "photo.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\a.png", "a.png"),
        ("a\r\nSet-Cookie: x\0.png", "aSet-Cookie: x.png"),
        ("\u202egnp.exe", "gnp.exe"),  # would be shown from right to left
        ("..", "image"),
        ("", "image"),
        (".png", "png"),
        ("é" * 300 + ".jpg", "é" * 150 + ".jpg"),
    ],
)
def test_file_name(given, name):
    assert file_name(given) == name
