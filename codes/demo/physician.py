"""Have the demo's features rated by a stand-in for a medical language model, over HTTP: no download, and it knows the truth.

    cd codes
    MEDREP_ROOT=demo MEDREP_CONFIGS=configs/demo python demo/physician.py --rep medrep --outcome MT --seed 100 --ex mimic

Reads   nothing of its own; the flags are those of experiments/medgemma.py, which it calls
Writes  what experiments/medgemma.py writes

It is no language model: a server on this machine that speaks the OpenAI protocol and looks a name up among those that the generator
made (demo/terminology.py). What the generator records of severe courses is High, a measurement in its highest three tenths, where
severity moves it, Moderate, and the rest Low. So in the demo's report the difference between top features and controls says whether
the patient model looks at what the outcome was in truth drawn from; how far ratings can be believed it does not say.
"""

import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from demo import terminology
from experiments import medgemma

LISTED_FEATURE = re.compile(r"^(\d+)\. (.*)$", re.MULTILINE)
HIGH_TENTHS = ("(8th decile)", "(9th decile)", "(10th decile)")
MODEL_NAME = "demo-physician"


def severe_names(seed: int = 0) -> set[str]:
    """Of all concepts that code a severe fact."""
    vocabulary = terminology.build(seed)
    name_of = vocabulary.concepts.set_index("concept_id").name
    return {name_of[concept] for (_, _, severity), facts in vocabulary.facts.items() if severity for fact in facts for concept in fact}


def rate(name: str, severe: set[str]) -> str:
    return "High" if name in severe else "Moderate" if name.endswith(HIGH_TENTHS) else "Low"


def serve(severe: set[str]) -> ThreadingHTTPServer:
    """A server on loopback, at a port that is free."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            ratings = {number: rate(name, severe) for number, name in LISTED_FEATURE.findall(request["messages"][-1]["content"])}
            message = {"role": "assistant", "content": json.dumps(ratings)}
            body = json.dumps(
                {
                    "id": "demo",
                    "object": "chat.completion",
                    "created": 0,
                    "model": MODEL_NAME,
                    "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main(argv=None):
    os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"]))  # the way to it is not through a proxy
    server = serve(severe_names())
    try:
        medgemma.main([*(sys.argv[1:] if argv is None else argv), "--llm", MODEL_NAME, "--base-url", f"http://127.0.0.1:{server.server_port}/v1"])
    finally:
        server.shutdown()


if __name__ == "__main__":
    main()
