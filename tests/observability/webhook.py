#!/usr/bin/env python3
"""Listens to Alertmanager's webhook on 127.0.0.1 and writes a line for each alert it hears of: its status, name and description.
Called by hack/demo-observability.sh; serves until it is killed.

usage: webhook.py PORT"""

import http.server
import json
import sys


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in body["alerts"]:
            labels = " ".join(f"{name}={alert['labels'][name]}" for name in ("severity", "topic", "group") if name in alert["labels"])
            print(f"{alert['status']} {alert['labels']['alertname']} {labels}: {alert['annotations']['description']}", flush=True)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        """Standard output is for the alerts."""


server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
print("listening", flush=True)
server.serve_forever()
