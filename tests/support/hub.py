"""As much of the hub's HTTP API as downloading and uploading a model takes, with a count of what was asked for."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StubHub:
    """One model repository: `files` to give, `fetched` (bytes given of each), `uploaded` files, `created` requests.

    It can be told to be `gated` (all files are, but to the token `hf_granted`), to list sizes in `sizes` that are not
    the true ones, to give no more than `breaks` bytes of a file (then the line drops, and is dead from there on), and
    to keep a client waiting for the files in `stalls`, until `go_on` is set.
    """

    def __init__(self, repo: str, folder: Path | None = None, *, refuse: int = 0):
        self.gated = False
        self.sizes: dict[str, int] = {}
        self.breaks: dict[str, int] = {}
        self.dead: set[str] = set()
        self.stalls: set[str] = set()
        self.stalled, self.go_on = threading.Event(), threading.Event()
        self.repo, self.refuse = repo, refuse
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()} if folder else {}
        self.fetched: dict[str, int] = {}
        self.uploaded: dict[str, bytes] = {}
        self.objects: dict[str, bytes] = {}
        self.created: list[dict] = []
        self.address = ""


def call(hub: StubHub, cache: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command, such as "prune" and its words, or lines of Python, in a process that knows no hub but this one."""
    with start(hub, cache, *words, **environment) as running:
        stdout, stderr = running.communicate(timeout=300)
    return subprocess.CompletedProcess(running.args, running.returncode, stdout, stderr)


def start(hub: StubHub, cache: Path, *words: object, **environment: str) -> subprocess.Popen[str]:
    """As `call`, and do not wait for its end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    given = {"HF_ENDPOINT": hub.address, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    # A busy machine may need longer than the ten seconds after which the client gives a stalled file up.
    given |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "300", **environment}
    command = [sys.executable, *(["-c"] if str(words[0]).startswith("import ") else ["-m"]), *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=kept | given)


@contextmanager
def serve(hub: StubHub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, document, code=200):
            self.give(json.dumps(document).encode(), code, {"Content-Type": "application/json"})

        def give(self, content, code=200, headers=None):
            self.send_response(code)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def body(self):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_GET(self):
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/models/{hub.repo}/tree/"):
                return self.answer(
                    [{"type": "file", "path": n, "size": len(c), "oid": n} for n, c in hub.files.items()]
                )
            if path.startswith(f"/api/models/{hub.repo}"):
                siblings = [
                    {"rfilename": n, "size": hub.sizes.get(n, len(c)), "blobId": hashlib.sha256(c).hexdigest()}
                    for n, c in hub.files.items()
                ]
                return self.answer({"id": hub.repo, "sha": COMMIT, "siblings": siblings, "private": False})
            asked = re.fullmatch(rf"/{hub.repo}/resolve/[^/]+/(.+)", path)
            if asked and hub.gated and self.headers.get("Authorization") != "Bearer hf_granted":
                code = 403 if "Authorization" in self.headers else 401
                return self.give(b"{}", code, {"X-Error-Code": "GatedRepo", "X-Repo-Commit": COMMIT})
            if asked and asked[1] in hub.files:
                return self.give_file(asked[1])
            code = "EntryNotFound" if asked else "RepoNotFound"
            return self.give(b"{}", 404, {"X-Error-Code": code, "X-Repo-Commit": COMMIT})

        do_HEAD = do_GET  # noqa: N815

        def give_file(self, name):
            content = hub.files[name]
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            code, part = 200, content
            if wanted:
                start, end = int(wanted[1]), min(int(wanted[2]) + 1, len(content))
                code, part = 206, content[start:end]
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            if self.command == "GET" and (name in hub.dead or (name in hub.breaks and "Range" not in self.headers)):
                self.drop(name, content, headers)
                return
            if self.command == "GET" and name in hub.stalls:
                hub.stalled.set()
                hub.go_on.wait(100)
                self.close_connection = True
                return
            if self.command == "GET":
                hub.fetched[name] = hub.fetched.get(name, 0) + len(part)
            self.give(part, code, headers)

        def drop(self, name, content, headers):
            if name in hub.dead:
                self.give(b"{}", 503)
                return
            hub.dead.add(name)
            self.close_connection = True
            self.send_response(200)
            for header, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(content[: hub.breaks[name]])

        def do_POST(self):
            body, path = self.body(), self.path.partition("?")[0]
            if hub.refuse:
                return self.answer({"error": "no"}, hub.refuse)
            if path == "/api/repos/create":
                hub.created.append(json.loads(body))
                return self.answer({"url": f"{hub.address}/{hub.repo}"})
            if path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if path.endswith("/preupload/main"):
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
                return self.answer({"files": modes})
            if path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {**entry, "actions": {"upload": {"href": f"{hub.address}/lfs/{entry['oid']}", "header": {}}}}
                    for entry in json.loads(body)["objects"]
                ]
                return self.answer({"transfer": "basic", "objects": objects})
            if path.endswith("/commit/main"):
                for line in body.decode().splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        hub.uploaded[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                    elif entry["key"] == "lfsFile":
                        hub.uploaded[entry["value"]["path"]] = hub.objects[entry["value"]["oid"]]
                return self.answer({"commitUrl": f"{hub.address}/{hub.repo}/commit/{COMMIT}", "commitOid": COMMIT})
            return self.answer({"error": f"not in the stub: {path}"}, 404)

        def do_PUT(self):
            content = self.body()
            assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
            hub.objects[self.path.rpartition("/")[2]] = content
            self.give(b"")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
