"""Who may do what, what an environment is told of itself, and how the SDK hears of errors."""

import json

import svix.api
import svix.models as m
from svix.api import OperationalWebhookEndpointListOptions

from support import EVENT_TYPES, SECOND, SET_HEADERS, Case, OperationalUpsertIn, second_generation, upsert


class Environment(Case):
    def test_a_portal_token_reaches_its_application_only(self):
        app, other = self.app(uid="mine"), self.app(uid="others")
        self.endpoint(app, uid="one")
        access = self.svix.authentication.app_portal_access("mine", m.AppPortalAccessIn())
        self.assertTrue(access.url)
        portal = self.client(access.token)
        self.assertEqual([one.uid for one in portal.endpoint.list(app.id).data], ["one"])
        self.assertEqual(portal.application.get("mine").id, app.id)
        self.refused(404, "not_found", portal.endpoint.list, other.id)
        self.refused(403, "insufficient access", portal.application.list)
        self.refused(403, "insufficient access", portal.message.create, app.id, m.MessageIn(event_type="a", payload={}))

        flagged = m.EventTypeIn(name="secret", description="", **({"feature_flags": ["beta"]} if SECOND else {"feature_flag": "beta"}))
        self.svix.event_type.create(flagged)
        self.svix.event_type.create(m.EventTypeIn(name="open", description=""))
        self.assertEqual([one.name for one in portal.event_type.list().data], ["open"])
        flags = m.AppPortalAccessIn(feature_flags=["beta"])
        beta = self.client(self.svix.authentication.app_portal_access("mine", flags).token)
        self.assertEqual([one.name for one in beta.event_type.list().data], ["open", "secret"])

        made = m.AppPortalAccessIn(application=m.ApplicationIn(name="new", uid="fresh"))
        self.assertTrue(self.svix.authentication.app_portal_access("fresh", made).token)
        self.assertEqual(self.svix.application.get("fresh").name, "new")
        self.refused(404, "not_found", self.svix.authentication.app_portal_access, "nobody", m.AppPortalAccessIn())
        self.refused(501, "not_implemented", portal.authentication.logout)
        self.svix.authentication.expire_all("mine", m.ApplicationTokenExpireIn(expiry=0))
        self.refused(401, "authentication_failed", portal.endpoint.list, app.id)
        self.refused(401, "authentication_failed", beta.endpoint.list, app.id)
        after = self.client(self.svix.authentication.app_portal_access("mine", m.AppPortalAccessIn()).token)
        self.assertEqual(len(after.endpoint.list(app.id).data), 1)

    def test_operational_webhooks_are_managed_and_arrive(self):
        hooks = self.svix.operational_webhook.endpoint if SECOND else self.svix.operational_webhook_endpoint
        types = {EVENT_TYPES: ["endpoint.created", "message.attempt.exhausted"]}
        made = hooks.create(m.OperationalWebhookEndpointIn(url=self.receiver.url, uid="ops", description="mine", **types))
        self.assertEqual((made.uid, made.description, made.url), ("ops", "mine", self.receiver.url))
        self.assertEqual(getattr(made, EVENT_TYPES), types[EVENT_TYPES])
        self.assertEqual(hooks.get("ops"), made)
        self.assertEqual([one.id for one in hooks.list(OperationalWebhookEndpointListOptions(limit=5)).data], [made.id])
        getattr(hooks, SET_HEADERS)("ops", m.OperationalWebhookEndpointHeadersIn(headers={"x-ops": "1"}))
        self.assertEqual(hooks.get_headers("ops").headers, {"x-ops": "1"})
        old = hooks.get_secret("ops").key
        hooks.rotate_secret("ops", m.OperationalWebhookEndpointSecretIn())
        new = hooks.get_secret("ops").key
        self.assertNotEqual(old, new)

        app = self.app(uid="watched")
        endpoint = self.endpoint(app, url=self.receiver.url + "customer")
        headers, body = self.receiver.next()
        for secret in (old, new):
            self.assert_verifies(secret, headers, body)
        self.assertEqual(headers["x-ops"], "1")
        event = json.loads(body)
        self.assertEqual(event["type"], "endpoint.created")
        self.assertEqual((event["data"]["appId"], event["data"]["appUid"]), (app.id, "watched"))
        self.assertEqual(event["data"]["endpointId"], endpoint.id)

        self.receiver.statuses.extend([500] * 4)
        message = self.message(app)
        self.assertEqual(self.receiver.ids(4), [message.id] * 4)
        headers, body = self.receiver.next()
        self.assert_verifies(new, headers, body)
        event = json.loads(body)
        self.assertEqual((event["type"], event["data"]["msgId"]), ("message.attempt.exhausted", message.id))
        self.assertEqual(event["data"]["lastAttempt"]["responseStatusCode"], 500)

        changed = upsert(hooks, "ops", OperationalUpsertIn(url=self.receiver.url + "new", uid="ops"))
        self.assertEqual((changed.id, changed.url, changed.description), (made.id, self.receiver.url + "new", ""))
        hooks.delete("ops")
        self.refused(404, "not_found", hooks.get, made.id)

    @second_generation
    def test_environments_are_exported_and_imported(self):
        self.svix.event_type.create(m.EventTypeIn(name="kept", description="as it was"))
        exported = self.svix.environment.export()
        self.assertEqual([one.name for one in exported.event_types], ["kept"])
        self.svix.event_type.patch("kept", m.EventTypePatch(description="changed"))
        wanted = m.EnvironmentIn(event_types=[m.EventTypeIn(name="kept", description="as it was")])
        self.svix.environment.import_(wanted)
        self.assertEqual(self.svix.event_type.get("kept").description, "as it was")

    def test_errors_are_the_sdks_own(self):
        self.refused(404, "not_found", self.svix.application.get, "no-such-app")
        wrong = self.invalid(self.svix.application.create, m.ApplicationIn(name=""))
        self.assertEqual(wrong.loc, ["body", "name"])
        body = m.MessageIn(event_type="no blanks", payload={})
        self.invalid(self.svix.message.create, self.app().id, body)
        self.refused(404, "not_found", self.svix.message.create, "no-such-app", m.MessageIn(event_type="a", payload={}))
        for token in ("no token", "", "a.b.c"):
            refused = self.refused(401, "authentication_failed", self.client(token or "x").application.list)
            self.assertEqual(refused.detail, "Invalid token")
        app = self.app()
        taken = m.MessageIn(event_type="a", event_id="once", payload={})
        self.svix.message.create(app.id, taken)
        self.refused(409, "conflict", self.svix.message.create, app.id, taken)
        big = m.MessageIn(event_type="a", payload={"text": "x" * (3 << 20)})
        self.refused(413, "payload_too_large", self.svix.message.create, app.id, big)
        self.assertTrue(self.svix.application.get(app.id))

    @second_generation
    def test_health_is_told(self):
        self.assertIsNone(self.svix.health.get())

    def test_what_is_absent_says_so(self):
        self.refused(501, "not_implemented", self.svix.integration.list, self.app().id)
        if SECOND:
            self.refused(501, "not_implemented", self.svix.connector.list)
            self.refused(501, "not_implemented", self.svix.streaming.stream.list)
