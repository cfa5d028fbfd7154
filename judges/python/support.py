"""What the cases of the Python judge share: a receiver, waiting with a deadline, the names that changed between SDKs.

Every case runs in a process of its own against a server of its own, of which it knows the URL and a token.
"""

import os
import queue
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import standardwebhooks
import svix.api
import svix.exceptions
import svix.models as m
import svix.webhooks
from svix.api import Svix, SvixOptions

DEADLINE_SECONDS = 30

# The second generation of the SDK calls some things differently; what goes over the wire is the same.
SECOND = hasattr(m, "EndpointUpsertIn")
UPSERT = "upsert" if SECOND else "update"
SET_HEADERS = "set_headers" if SECOND else "update_headers"
EVENT_TYPES = "event_types" if SECOND else "filter_types"
EndpointUpsertIn = m.EndpointUpsertIn if SECOND else m.EndpointUpdate
EventTypeUpsertIn = m.EventTypeUpsertIn if SECOND else m.EventTypeUpdate
OperationalUpsertIn = m.OperationalWebhookEndpointUpsertIn if SECOND else m.OperationalWebhookEndpointUpdate


def upsert(group, *arguments):
    return getattr(group, UPSERT)(*arguments)


def second_generation(case):
    """A case about what the first generation does not have."""
    return case if SECOND else None


def apart():
    """Ids, by which lists are ordered, tell instants apart that are 4 ms from each other."""
    time.sleep(0.005)


class Receiver:
    """A webhook receiver on a free port. What arrives is taken from it with `next`."""

    def __init__(self):
        self.arrived = arrived = queue.Queue()
        self.statuses = statuses = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                # Taken before the case hears of the request: what it then sets is for the next one.
                status = statuses.pop(0) if statuses else 200
                # Names of headers have no case; on HTTP/1 they come in title case.
                arrived.put(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/"

    def next(self):
        return self.arrived.get(timeout=DEADLINE_SECONDS)

    def ids(self, count):
        """The ids of the next `count` deliveries, in order."""
        return sorted(self.next()[0]["webhook-id"] for _ in range(count))

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Case(unittest.TestCase):
    def setUp(self):
        self.svix = self.client(os.environ["POSTRIDER_TOKEN"])
        # The first generation has this group, but its client does not name it.
        self.tasks = self.svix.background_task if SECOND else svix.api.BackgroundTask(self.svix._client)
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)

    def client(self, token):
        return Svix(token, SvixOptions(server_url=os.environ["POSTRIDER_URL"]))

    def app(self, **members):
        apart()
        return self.svix.application.create(m.ApplicationIn(name="from Python", **members))

    def endpoint(self, app, **members):
        apart()
        members.setdefault("url", self.receiver.url)
        if "event_types" in members:
            members[EVENT_TYPES] = members.pop("event_types")
        return self.svix.endpoint.create(app.id, m.EndpointIn(**members))

    def message(self, app, event_type="a", payload=None, **members):
        apart()
        body = m.MessageIn(event_type=event_type, payload={} if payload is None else payload, **members)
        return self.svix.message.create(app.id, body)

    def assert_verifies(self, secret, headers, body):
        """Both published verifiers take it, and refuse it when one byte is added."""
        self.assertTrue(secret.startswith("whsec_"), secret)
        svix.webhooks.Webhook(secret).verify(body, headers)
        standardwebhooks.Webhook(secret).verify(body, headers)
        with self.assertRaises(svix.webhooks.WebhookVerificationError):
            svix.webhooks.Webhook(secret).verify(body + b" ", headers)

    def eventually(self, what, look):
        """Looks again and again until `look` returns something that is true."""
        end = time.monotonic() + DEADLINE_SECONDS
        while True:
            if found := look():
                return found
            self.assertLess(time.monotonic(), end, f"waited in vain for {what}")
            time.sleep(0.02)

    def attempts(self, app, message, count, **options):
        """The attempts of a message, as soon as there are `count`."""
        options = svix.api.MessageAttemptListByMsgOptions(**options)

        def look():
            found = self.svix.message_attempt.list_by_msg(app.id, message.id, options).data
            return found if len(found) >= count else None

        return self.eventually(f"{count} attempts", look)

    def finished(self, task):
        """The background task `task`, when it has finished."""

        def look():
            found = self.tasks.get(task.id)
            self.assertNotEqual(found.status, m.BackgroundTaskStatus.FAILED, found)
            return found if found.status == m.BackgroundTaskStatus.FINISHED else None

        return self.eventually(f"the end of {task.task}", look)

    def refused(self, status, code, call, *arguments):
        """The call is answered with this status and code, and the SDK says so with its own exception."""
        with self.assertRaises(svix.exceptions.HttpError) as raised:
            call(*arguments)
        self.assertEqual((raised.exception.status_code, raised.exception.code), (status, code))
        self.assertTrue(raised.exception.detail)
        return raised.exception

    def invalid(self, call, *arguments):
        """The call is answered with 422, and the SDK could read which member is wrong."""
        with self.assertRaises(svix.exceptions.HTTPValidationError) as raised:
            call(*arguments)
        (first, *_) = raised.exception.detail
        self.assertTrue(first.msg and first.type)
        return first
