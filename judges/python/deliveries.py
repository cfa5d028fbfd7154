"""Messages on their way: what arrives, signed by whom, when tried again."""

import svix.models as m
from svix.api import (
    MessageAttemptListByEndpointOptions,
    MessageCreateOptions,
    MessageGetOptions,
    MessageListOptions,
)
from svix.api.message import message_in_raw
from svix.models import MessageStatus

from support import SECOND, Case


class Deliveries(Case):
    def test_what_is_sent_arrives_and_verifies(self):
        app = self.app(uid="main")
        endpoint = self.endpoint(app)
        message = self.svix.message.create(
            "main",
            m.MessageIn(event_type="user.created", event_id="first", payload={"name": "Zoë", "n": 1}),
            MessageCreateOptions(with_content=True),
        )
        self.assertEqual(message.payload, {"name": "Zoë", "n": 1})
        self.assertEqual((message.event_type, message.event_id), ("user.created", "first"))
        headers, body = self.receiver.next()
        self.assertEqual(headers["webhook-id"], message.id)
        self.assertEqual(body.decode(), '{"name":"Zoë","n":1}')
        self.assert_verifies(self.svix.endpoint.get_secret(app.id, endpoint.id).key, headers, body)

        (attempt,) = self.attempts(app, message, 1, with_content=True)
        self.assertEqual((attempt.status, attempt.response_status_code), (MessageStatus.SUCCESS, 200))
        self.assertEqual((attempt.msg_id, attempt.endpoint_id), (message.id, endpoint.id))
        self.assertEqual((attempt.url, attempt.response), (self.receiver.url, ""))
        self.assertGreaterEqual(attempt.timestamp, message.timestamp)
        one = self.svix.message_attempt.get(app.id, message.id, attempt.id)
        self.assertEqual((one.id, one.timestamp), (attempt.id, attempt.timestamp))
        got = self.svix.message.get(app.id, "first", MessageGetOptions(with_content=True))
        self.assertEqual(got, message)
        listed = self.svix.message.list(app.id, MessageListOptions(limit=10, with_content=True))
        self.assertEqual((listed.data, listed.done), ([message], True))

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
        message = self.message(app)
        self.assertEqual(self.receiver.ids(3), [message.id] * 3)
        attempts = self.attempts(app, message, 3)
        self.assertEqual([found.response_status_code for found in attempts], [200, 503, 500])
        failed = self.attempts(app, message, 2, status=MessageStatus.FAIL)
        self.assertEqual([found.response_status_code for found in failed], [503, 500])
        self.svix.message_attempt.resend(app.id, message.id, endpoint.id)
        headers, body = self.receiver.next()
        self.assertEqual(headers["webhook-id"], message.id)
        self.assert_verifies(self.svix.endpoint.get_secret(app.id, endpoint.id).key, headers, body)
        resent, *_ = self.attempts(app, message, 4)
        self.assertEqual(resent.trigger_type, m.MessageAttemptTriggerType.MANUAL)
        stats = self.svix.endpoint.get_stats(app.id, endpoint.id)
        self.assertEqual((stats.success, stats.fail, stats.pending, stats.sending), (2, 2, 0, 0))

    def test_a_secret_is_rotated_and_both_sign(self):
        app = self.app()
        endpoint = self.endpoint(app)
        old = self.svix.endpoint.get_secret(app.id, endpoint.id).key
        rotated = self.svix.endpoint.rotate_secret(app.id, endpoint.id, m.EndpointSecretRotateIn())
        new = self.svix.endpoint.get_secret(app.id, endpoint.id).key
        self.assertNotEqual(new, old)
        # The first generation expects an empty answer, the second the new key.
        self.assertEqual(rotated.key if SECOND else rotated, new if SECOND else None)
        self.message(app, payload={"x": 1})
        headers, body = self.receiver.next()
        for secret in (old, new):
            self.assert_verifies(secret, headers, body)
        given = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        self.svix.endpoint.rotate_secret(app.id, endpoint.id, m.EndpointSecretRotateIn(key=given))
        self.assertEqual(self.svix.endpoint.get_secret(app.id, endpoint.id).key, given)
        self.message(app)
        headers, body = self.receiver.next()
        for secret in (old, new, given):
            self.assert_verifies(secret, headers, body)

    def test_event_types_and_channels_filter(self):
        app = self.app()
        for name in ("order.paid", "order.sent"):
            self.svix.event_type.create(m.EventTypeIn(name=name, description=""))
        self.endpoint(app, event_types=["order.paid"], channels=["eu"])
        for kind, channels in (("order.sent", ["eu"]), ("order.paid", ["us"]), ("order.paid", None)):
            self.message(app, kind, channels=channels)
        wanted = self.message(app, "order.paid", channels=["eu", "us"])
        self.assertEqual(wanted.channels, ["eu", "us"])
        self.assertEqual(self.receiver.ids(1), [wanted.id])
        self.assertTrue(self.receiver.arrived.empty())
        if SECOND:
            for channels, active in ((["eu"], True), (["us"], False)):
                asked = m.MessagePrecheckIn(event_type="order.paid", channels=channels)
                self.assertEqual(self.svix.message.precheck(app.id, asked).active, active)

    def test_the_same_idempotency_key_is_one_message(self):
        app = self.app()
        self.endpoint(app)
        options = MessageCreateOptions(idempotency_key="once")
        body = m.MessageIn(event_type="a", payload={"x": 1})
        first = self.svix.message.create(app.id, body, options)
        second = self.svix.message.create(app.id, body, options)
        self.assertEqual(first, second)
        after = self.svix.message.create(app.id, body)
        self.assertEqual(self.receiver.ids(2), sorted([first.id, after.id]))
        self.assertEqual(len(self.svix.message.list(app.id).data), 2)

    def test_an_example_is_sent(self):
        app = self.app()
        endpoint = self.endpoint(app)
        schema = {"type": "object", "examples": [{"id": 7}]}
        self.svix.event_type.create(m.EventTypeIn(name="thing.made", description="", schemas={"1": schema}))
        sent = self.svix.endpoint.send_example(app.id, endpoint.id, m.EventExampleIn(event_type="thing.made"))
        headers, body = self.receiver.next()
        self.assertEqual((headers["webhook-id"], body), (sent.id, b'{"id":7}'))
        self.assert_verifies(self.svix.endpoint.get_secret(app.id, endpoint.id).key, headers, body)
        ping = self.svix.endpoint.send_example(app.id, endpoint.id, m.EventExampleIn(event_type="svix.ping"))
        headers, body = self.receiver.next()
        self.assertEqual((headers["webhook-id"], body), (ping.id, b'{"success": true}'))
        self.svix.event_type.create(m.EventTypeIn(name="thing.bare", description=""))
        example = self.svix.endpoint.send_example
        self.refused(400, "invalid_scheme", example, app.id, endpoint.id, m.EventExampleIn(event_type="thing.bare"))
        self.refused(404, "not_found", example, app.id, endpoint.id, m.EventExampleIn(event_type="thing.unknown"))
