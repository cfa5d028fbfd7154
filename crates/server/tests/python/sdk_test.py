"""The published Python SDK against a Postrider server: only the server's URL is not the SDK's own.

Run by `sdk_python.rs`, which starts the server and gives its URL and a token in the environment. Every delivery is
checked by two published verifiers: the SDK's own, and that of `standardwebhooks`.
"""

import faulthandler
import os
import queue
import threading
import unittest
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import standardwebhooks
import svix.webhooks
from svix.api import (
    ApplicationIn,
    ApplicationListOptions,
    ApplicationPatch,
    EndpointHeadersIn,
    EndpointHeadersPatchIn,
    EndpointIn,
    EndpointListOptions,
    EndpointPatch,
    EndpointSecretRotateIn,
    EndpointUpsertIn,
    EventTypeIn,
    EventTypeListOptions,
    EventTypePatch,
    EventTypeUpsertIn,
    MessageAttemptListByEndpointOptions,
    MessageAttemptListByMsgOptions,
    MessageCreateOptions,
    MessageGetOptions,
    MessageIn,
    MessageListOptions,
    Svix,
    SvixOptions,
)
from svix.api.message import message_in_raw
from svix.exceptions import HttpError, HTTPValidationError
from svix.models import MessageStatus

DEADLINE_SECONDS = 30

# Whatever hangs shows where, before it is ended from outside.
faulthandler.dump_traceback_later(50, exit=True)


class Receiver:
    """A webhook receiver on a free port; what arrives is taken from it with `next`."""

    def __init__(self):
        arrived = queue.Queue()
        self.statuses = statuses = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                arrived.put((dict(self.headers), body))
                self.send_response(statuses.pop(0) if statuses else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.arrived = arrived
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/"

    def next(self):
        return self.arrived.get(timeout=DEADLINE_SECONDS)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class SdkTest(unittest.TestCase):
    def setUp(self):
        self.svix = Svix(os.environ["POSTRIDER_TOKEN"], SvixOptions(server_url=os.environ["POSTRIDER_URL"]))
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)

    def app(self, **members):
        return self.svix.application.create(ApplicationIn(name="from Python", **members))

    def endpoint(self, app, **members):
        return self.svix.endpoint.create(app.id, EndpointIn(url=self.receiver.url, **members))

    def assert_verifies(self, secret, headers, body):
        """Both published verifiers take it, and refuse it when one byte is changed."""
        svix.webhooks.Webhook(secret).verify(body, headers)
        lower = {name.lower(): value for name, value in headers.items()}
        standardwebhooks.Webhook(secret).verify(body, lower)
        with self.assertRaises(svix.webhooks.WebhookVerificationError):
            svix.webhooks.Webhook(secret).verify(body + b" ", headers)

    def attempts(self, app, message, count, **options):
        """Waits until `count` attempts are logged."""
        end = datetime.now() + timedelta(seconds=DEADLINE_SECONDS)
        while True:
            found = self.svix.message_attempt.list_by_msg(
                app.id, message.id, MessageAttemptListByMsgOptions(**options)
            ).data
            if len(found) >= count:
                return found
            self.assertLess(datetime.now(), end, f"waited in vain for {count} attempts, got {found}")
            threading.Event().wait(0.02)

    def test_what_is_sent_arrives_and_verifies(self):
        self.svix.health.get()
        app = self.app(uid="python-main")
        endpoint = self.endpoint(app)
        message = self.svix.message.create(
            "python-main",
            MessageIn(event_type="user.created", event_id="first", payload={"name": "Zoë", "n": 1}),
            MessageCreateOptions(with_content=True),
        )
        self.assertEqual(message.payload, {"name": "Zoë", "n": 1})
        headers, body = self.receiver.next()
        self.assertEqual(headers["webhook-id"], message.id)
        self.assertEqual(body.decode(), '{"name":"Zoë","n":1}')
        secret = self.svix.endpoint.get_secret(app.id, endpoint.id).key
        self.assert_verifies(secret, headers, body)

        (attempt,) = self.attempts(app, message, 1)
        self.assertEqual((attempt.status, attempt.response_status_code), (MessageStatus.SUCCESS, 200))
        self.assertEqual((attempt.msg_id, attempt.endpoint_id), (message.id, endpoint.id))
        one = self.svix.message_attempt.get(app.id, message.id, attempt.id)
        self.assertEqual(one.id, attempt.id)
        by_endpoint = self.svix.message_attempt.list_by_endpoint(
            app.id, endpoint.id, MessageAttemptListByEndpointOptions(status=MessageStatus.SUCCESS)
        )
        self.assertEqual([found.id for found in by_endpoint.data], [attempt.id])
        got = self.svix.message.get(app.id, "first", MessageGetOptions(with_content=True))
        self.assertEqual((got.id, got.payload), (message.id, message.payload))
        listed = self.svix.message.list(app.id, MessageListOptions(limit=10, with_content=True))
        self.assertEqual([found.id for found in listed.data], [message.id])
        self.assertTrue(listed.done)

    def test_a_raw_payload_arrives_as_it_is(self):
        app = self.app()
        endpoint = self.endpoint(app)
        text = '{ "b" : 1.0,  "a":"\\u00e9" }'
        self.svix.message.create(app.id, message_in_raw("a", text))
        headers, body = self.receiver.next()
        self.assertEqual(body.decode(), text)
        self.assert_verifies(self.svix.endpoint.get_secret(app.id, endpoint.id).key, headers, body)

    def test_a_failure_is_retried_and_logged_and_a_resend_is_possible(self):
        app = self.app()
        endpoint = self.endpoint(app)
        self.receiver.statuses.extend([500, 503])
        message = self.svix.message.create(app.id, MessageIn(event_type="a", payload={}))
        for _ in range(3):
            headers, body = self.receiver.next()
            self.assertEqual(headers["webhook-id"], message.id)
        attempts = self.attempts(app, message, 3)
        self.assertEqual([found.response_status_code for found in attempts], [200, 503, 500])
        failed = self.attempts(app, message, 2, status=MessageStatus.FAIL)
        self.assertEqual([found.response_status_code for found in failed], [503, 500])
        self.svix.message_attempt.resend(app.id, message.id, endpoint.id)
        headers, body = self.receiver.next()
        self.assertEqual(headers["webhook-id"], message.id)
        self.assertEqual(len(self.attempts(app, message, 4)), 4)
        stats = self.svix.endpoint.get_stats(app.id, endpoint.id)
        self.assertEqual((stats.success, stats.fail), (2, 2))

    def test_a_secret_is_rotated_and_both_sign(self):
        app = self.app()
        endpoint = self.endpoint(app)
        old = self.svix.endpoint.get_secret(app.id, endpoint.id).key
        rotated = self.svix.endpoint.rotate_secret(app.id, endpoint.id, EndpointSecretRotateIn())
        new = self.svix.endpoint.get_secret(app.id, endpoint.id).key
        self.assertNotEqual(new, old)
        self.assertEqual(rotated.key, new)
        self.svix.message.create(app.id, MessageIn(event_type="a", payload={"x": 1}))
        headers, body = self.receiver.next()
        for secret in (old, new):
            self.assert_verifies(secret, headers, body)

    def test_event_types_and_channels_filter(self):
        app = self.app()
        self.svix.event_type.create(EventTypeIn(name="order.paid", description="somebody paid"))
        self.svix.event_type.create(EventTypeIn(name="order.sent", description="", schemas={"1": {"type": "object"}}))
        paid = self.endpoint(app, event_types=["order.paid"], channels=["eu"])
        for kind, channels in (("order.sent", ["eu"]), ("order.paid", ["us"]), ("order.paid", ["eu", "us"])):
            last = self.svix.message.create(app.id, MessageIn(event_type=kind, payload={}, channels=channels))
        headers, _ = self.receiver.next()
        self.assertEqual(headers["webhook-id"], last.id)
        self.assertTrue(self.receiver.arrived.empty())

        names = [found.name for found in self.svix.event_type.list(EventTypeListOptions(with_content=True)).data]
        self.assertEqual(names, ["order.paid", "order.sent"])
        self.assertEqual(self.svix.event_type.get("order.sent").schemas, {"1": {"type": "object"}})
        self.svix.event_type.patch("order.sent", EventTypePatch(description="on its way"))
        self.assertEqual(self.svix.event_type.get("order.sent").description, "on its way")
        self.svix.event_type.upsert("order.sent", EventTypeUpsertIn(description="again", deprecated=True))
        self.assertTrue(self.svix.event_type.get("order.sent").deprecated)
        self.svix.event_type.delete("order.sent")
        self.assertEqual([found.name for found in self.svix.event_type.list().data], ["order.paid"])
        with self.assertRaises(HTTPValidationError):
            self.endpoint(app, event_types=["order.unheard-of"])
        self.assertEqual(self.svix.endpoint.get(app.id, paid.id).channels, ["eu"])

    def test_applications_and_endpoints_are_managed(self):
        app = self.app(uid="python-managed", metadata={"tier": "gold"})
        again = self.svix.application.get_or_create(ApplicationIn(name="other", uid="python-managed"))
        self.assertEqual(again.id, app.id)
        with self.assertRaises(HttpError) as conflict:
            self.app(uid="python-managed")
        self.assertEqual((conflict.exception.status_code, conflict.exception.code), (409, "conflict"))
        patched = self.svix.application.patch(app.id, ApplicationPatch(name="renamed"))
        self.assertEqual((patched.name, patched.metadata), ("renamed", {"tier": "gold"}))
        self.assertEqual(self.svix.application.get("python-managed").name, "renamed")
        upserted = self.svix.application.upsert("python-managed", ApplicationIn(name="whole", uid="python-managed"))
        self.assertEqual((upserted.id, upserted.metadata), (app.id, {}))

        first = self.endpoint(app, uid="one", description="first", headers={"x-a": "1"})
        second = self.endpoint(app)
        page = self.svix.endpoint.list(app.id, EndpointListOptions(limit=1))
        self.assertEqual(([found.id for found in page.data], page.done), ([second.id], False))
        rest = self.svix.endpoint.list(app.id, EndpointListOptions(limit=1, iterator=page.iterator))
        self.assertEqual(([found.id for found in rest.data], rest.done), ([first.id], True))
        self.svix.endpoint.patch_headers(app.id, "one", EndpointHeadersPatchIn(headers={"X-B": "2"}))
        self.assertEqual(self.svix.endpoint.get_headers(app.id, "one").headers, {"x-a": "1", "X-B": "2"})
        self.svix.endpoint.set_headers(app.id, "one", EndpointHeadersIn(headers={"authorization": "secret"}))
        self.assertEqual(self.svix.endpoint.get_headers(app.id, "one").sensitive, ["authorization"])
        self.assertTrue(self.svix.endpoint.patch(app.id, "one", EndpointPatch(disabled=True)).disabled)
        changed = self.svix.endpoint.upsert(app.id, "one", EndpointUpsertIn(url=self.receiver.url, uid="one"))
        self.assertEqual((changed.id, changed.disabled, changed.description), (first.id, False, ""))
        self.svix.endpoint.delete(app.id, second.id)
        with self.assertRaises(HttpError) as gone:
            self.svix.endpoint.get(app.id, second.id)
        self.assertEqual((gone.exception.status_code, gone.exception.code), (404, "not_found"))

        self.app()
        apps = self.svix.application.list(ApplicationListOptions(limit=1))
        self.assertEqual(([found.id for found in apps.data], apps.done), ([app.id], False))
        self.svix.application.delete("python-managed")
        with self.assertRaises(HttpError):
            self.svix.application.get(app.id)

    def test_errors_are_the_sdks_own(self):
        with self.assertRaises(HttpError) as missing:
            self.svix.application.get("no-such-app")
        self.assertEqual(missing.exception.status_code, 404)
        with self.assertRaises(HTTPValidationError) as invalid:
            self.svix.application.create(ApplicationIn(name=""))
        self.assertTrue(invalid.exception.detail)
        stranger = Svix("no token", SvixOptions(server_url=os.environ["POSTRIDER_URL"]))
        with self.assertRaises(HttpError) as refused:
            stranger.application.list()
        self.assertEqual((refused.exception.status_code, refused.exception.code), (401, "authentication_failed"))
        with self.assertRaises(HttpError) as unknown_route:
            self.svix.statistics.aggregate_event_types()
        self.assertEqual(unknown_route.exception.status_code, 404)

    def test_the_same_idempotency_key_is_one_message(self):
        app = self.app()
        self.endpoint(app)
        options = MessageCreateOptions(idempotency_key="python-once")
        body = MessageIn(event_type="a", payload={"x": 1})
        first = self.svix.message.create(app.id, body, options)
        second = self.svix.message.create(app.id, body, options)
        self.assertEqual(first.id, second.id)
        after = self.svix.message.create(app.id, body)
        arrived = {self.receiver.next()[0]["webhook-id"] for _ in range(2)}
        self.assertEqual(arrived, {first.id, after.id})
        before = datetime.now(timezone.utc) + timedelta(minutes=1)
        listed = self.svix.message.list(app.id, MessageListOptions(before=before))
        self.assertEqual(len(listed.data), 2)


if __name__ == "__main__":
    unittest.main()
