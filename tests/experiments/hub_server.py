"""A stand-in on loopback for what publish.py asks of the Hugging Face Hub: whose the token is and what it may, repositories, uploads (LFS) and
commits, for who has the token."""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_QuailFeatherWrites"


class HubServer(ThreadingHTTPServer):
    """`repos` {name: {file: bytes}}, `commits` the files of each commit, `asked` (method, path); `refuse` {path's beginning: status}; `rights` of
    the token, as whoami tells them."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.repos, self.visible, self.objects, self.commits, self.asked, self.refuse = {}, {}, {}, [], [], {}
        self.rights = {"role": "write"}
        self.address = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class HubRequest(BaseHTTPRequestHandler):
    server: HubServer

    def answer(self, content, status=200, **headers):
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def handle_asked(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self.read_chunks() if "chunked" in self.headers.get("Transfer-Encoding", "") else b""
        path, hub = self.path.partition("?")[0], self.server
        hub.asked.append((self.command, path))
        for beginning, status in hub.refuse.items():
            if path.startswith(beginning):
                return self.answer({"error": f"refused, as {self.headers.get('Authorization')} asked"}, status)
        if path.startswith("/objects/"):  # a signed URL, as those of the real Hub's storage: no token goes there
            hub.objects[path.removeprefix("/objects/")] = body
            return self.answer({})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            words = f"Invalid username or password for {self.headers.get('Authorization')}"  # a server that says more than it should
            return self.answer({"error": words}, 401, X_Error_Message=words)
        self.serve(path, body)

    def read_chunks(self):
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def serve(self, path, body):
        hub = self.server
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            there = name in hub.repos
            hub.repos.setdefault(name, {".gitattributes": b"*.safetensors filter=lfs"})
            hub.visible.setdefault(name, asked.get("visibility", "public"))
            return self.answer({"url": f"{hub.address}/{name}"}, 409 if there else 200)
        if path == "/api/whoami-v2":
            orgs = [{"name": "feathers", "roleInOrg": "write"}, {"name": "readers", "roleInOrg": "read"}]
            return self.answer({"type": "user", "name": "Quail", "orgs": orgs, "auth": {"type": "access_token", "accessToken": hub.rights}})
        if path == "/api/validate-yaml":
            return self.answer({"warnings": [], "errors": []})
        if found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            objects = json.loads(body)["objects"]
            return self.answer(
                {
                    "transfer": "basic",
                    "objects": [one | {"actions": {"upload": {"href": f"{hub.address}/objects/{one['oid']}", "header": {}}}} for one in objects],
                }
            )
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)/main)?", path)
        if not found or found[1] not in hub.repos:
            return self.answer({"error": "not found"}, 404, X_Error_Code="RepoNotFound")
        files, what = hub.repos[found[1]], found[2]
        if what == "tree":
            return self.answer([{"type": "file", "path": name, "size": len(text), "oid": "0" * 40} for name, text in files.items()])
        if what == "preupload":
            asked = json.loads(body)["files"]
            modes = ["lfs" if one["path"].endswith(".safetensors") else "regular" for one in asked]
            return self.answer(
                {"files": [{"path": one["path"], "uploadMode": mode, "shouldIgnore": False} for one, mode in zip(asked, modes, strict=True)]}
            )
        if what == "commit":
            new, lines = dict(files), [json.loads(line) for line in body.splitlines()]
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    new[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    new[value["path"]] = hub.objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    del new[value["path"]]
            hub.repos[found[1]] = new
            hub.commits.append(sorted(new))
            return self.answer({"commitUrl": f"{hub.address}/{found[1]}/commit/1", "commitOid": "1" * 40})
        self.answer({"id": found[1], "sha": "1" * 40, "siblings": []})

    do_GET = do_POST = do_PUT = do_HEAD = handle_asked  # noqa: N815

    def log_message(self, *_):
        pass
