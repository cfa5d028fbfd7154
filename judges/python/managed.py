"""What is kept: applications, event types, endpoints."""

import svix.api
import svix.models as m
from svix.api import ApplicationListOptions, EndpointListOptions, EventTypeDeleteOptions, EventTypeListOptions

from support import EVENT_TYPES, SECOND, SET_HEADERS, Case, EndpointUpsertIn, EventTypeUpsertIn, upsert


class Managed(Case):
    def test_applications_are_managed(self):
        applications = self.svix.application
        app = self.app(uid="managed", metadata={"tier": "gold"}, **({"throttle_rate": 9} if SECOND else {"rate_limit": 9}))
        self.assertEqual((app.name, app.uid, app.metadata), ("from Python", "managed", {"tier": "gold"}))
        self.assertEqual(app.throttle_rate if SECOND else app.rate_limit, 9)
        self.assertEqual(applications.get("managed"), app)
        self.assertEqual(applications.get(app.id), app)
        self.assertEqual(applications.get_or_create(m.ApplicationIn(name="other", uid="managed")), app)
        made = applications.get_or_create(m.ApplicationIn(name="other", uid="made"))
        self.assertEqual((made.name, made.uid), ("other", "made"))
        self.refused(409, "conflict", applications.create, m.ApplicationIn(name="other", uid="managed"))

        patched = applications.patch(app.id, m.ApplicationPatch(name="renamed"))
        self.assertEqual((patched.name, patched.uid, patched.metadata), ("renamed", "managed", {"tier": "gold"}))
        self.assertGreater(patched.updated_at, app.updated_at)
        whole = upsert(applications, "managed", m.ApplicationIn(name="whole", uid="managed"))
        self.assertEqual((whole.id, whole.metadata, whole.created_at), (app.id, {}, app.created_at))
        self.assertIsNone(whole.throttle_rate if SECOND else whole.rate_limit)
        new = upsert(applications, "nowhere", m.ApplicationIn(name="new"))
        self.assertNotIn(new.id, (app.id, made.id))

        applications.delete("managed")
        self.refused(404, "not_found", applications.get, app.id)
        self.refused(404, "not_found", applications.delete, app.id)
        self.assertNotEqual(self.app(uid="managed").id, app.id)

    def test_applications_are_listed_in_both_directions(self):
        made = [self.app().id for _ in range(5)]

        def page(**options):
            listed = self.svix.application.list(ApplicationListOptions(limit=2, **options))
            return [found.id for found in listed.data], listed

        ids, first = page()
        self.assertEqual((ids, first.done), (made[:2], False))
        ids, second = page(iterator=first.iterator)
        self.assertEqual((ids, second.done), (made[2:4], False))
        ids, third = page(iterator=second.iterator)
        self.assertEqual((ids, third.done), (made[4:], True))
        ids, back = page(iterator=third.prev_iterator)
        self.assertEqual((ids, back.done), (made[2:4], False))
        ids, back = page(iterator=back.prev_iterator)
        self.assertEqual((ids, back.done), (made[:2], True))
        ids, last = page(order=m.Ordering.DESCENDING)
        self.assertEqual((ids, last.done), (made[:2:-1], False))
        ids, before = page(order=m.Ordering.DESCENDING, iterator=last.iterator)
        self.assertEqual((ids, before.done), (made[2:0:-1], False))
        ids, again = page(order=m.Ordering.DESCENDING, iterator=before.prev_iterator)
        self.assertEqual((ids, again.done), (made[:2:-1], True))

    def test_event_types_are_managed(self):
        types = self.svix.event_type
        schemas = {"1": {"type": "object", "required": ["id"]}}
        members = {"feature_flags": ["beta"], "group_name": "orders"} if SECOND else {"feature_flag": "beta"}
        made = types.create(m.EventTypeIn(name="order.sent", description="on its way", schemas=schemas, **members))
        self.assertEqual((made.name, made.description, made.schemas), ("order.sent", "on its way", schemas))
        self.assertEqual((made.archived, made.deprecated), (False, False))
        self.assertEqual(made.feature_flags if SECOND else made.feature_flag, ["beta"] if SECOND else "beta")
        if SECOND:
            self.assertEqual(made.group_name, "orders")
        self.assertEqual(types.get("order.sent"), made)
        self.refused(409, "event_type_exists", types.create, m.EventTypeIn(name="order.sent", description=""))
        self.invalid(types.create, m.EventTypeIn(name="no blanks", description=""))
        types.create(m.EventTypeIn(name="order.paid", description=""))

        def names(**options):
            return [found.name for found in types.list(EventTypeListOptions(**options)).data]

        self.assertEqual(names(), ["order.paid", "order.sent"])
        listed = types.list(EventTypeListOptions(limit=1))
        self.assertEqual((listed.iterator, listed.done), ("order.paid", False))
        self.assertEqual(names(limit=1, iterator=listed.iterator), ["order.sent"])
        self.assertEqual([found.schemas for found in types.list().data], [None, None])
        full = types.list(EventTypeListOptions(with_content=True)).data
        self.assertEqual([found.schemas for found in full], [None, schemas])

        patched = types.patch("order.sent", m.EventTypePatch(description="gone"))
        self.assertEqual((patched.description, patched.schemas), ("gone", schemas))
        whole = upsert(types, "order.sent", EventTypeUpsertIn(description="again", deprecated=True))
        self.assertEqual((whole.description, whole.deprecated, whole.schemas), ("again", True, None))
        upsert(types, "order.lost", EventTypeUpsertIn(description="never seen again"))
        types.delete("order.sent")
        self.assertEqual(names(), ["order.lost", "order.paid"])
        self.assertEqual(names(include_archived=True), ["order.lost", "order.paid", "order.sent"])
        self.assertTrue(types.get("order.sent").archived)
        types.delete("order.sent", EventTypeDeleteOptions(expunge=True))
        self.refused(404, "not_found", types.get, "order.sent")

    def test_event_types_come_from_an_openapi_document(self):
        def webhook(description):
            schema = {"type": "object", "properties": {"id": {"type": "string"}}}
            body = {"content": {"application/json": {"schema": schema}}}
            return {"post": {"description": description, "requestBody": body, "responses": {"200": {"description": ""}}}}

        spec = {
            "openapi": "3.1.0",
            "info": {"title": "events", "version": "1"},
            "webhooks": {"user.born": webhook("somebody new"), "user.gone": webhook("somebody left")},
        }
        imported = self.svix.event_type.import_openapi
        tried = imported(m.EventTypeImportOpenApiIn(spec=spec, dry_run=True)).data
        self.assertEqual(sorted(found.name for found in tried.to_modify), ["user.born", "user.gone"])
        self.assertEqual(self.svix.event_type.list().data, [])
        done = imported(m.EventTypeImportOpenApiIn(spec=spec)).data
        self.assertEqual(sorted(done.modified), ["user.born", "user.gone"])
        found = self.svix.event_type.get("user.born")
        self.assertEqual(found.description, "somebody new")
        self.assertEqual(found.schemas["1"]["properties"], {"id": {"type": "string"}})
        del spec["webhooks"]["user.gone"]
        imported(m.EventTypeImportOpenApiIn(spec=spec, replace_all=True))
        self.assertTrue(self.svix.event_type.get("user.gone").archived)

    def test_endpoints_are_managed(self):
        endpoints = self.svix.endpoint
        app = self.app()
        self.svix.event_type.create(m.EventTypeIn(name="a", description=""))
        secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        limit = {"throttle_rate": 50} if SECOND else {"rate_limit": 50}
        first = self.endpoint(
            app, uid="one", description="first", metadata={"k": "v"}, channels=["eu"], event_types=["a"], secret=secret, **limit
        )
        self.assertEqual((first.uid, first.description, first.metadata), ("one", "first", {"k": "v"}))
        self.assertEqual((first.url, first.disabled, first.channels), (self.receiver.url, False, ["eu"]))
        self.assertEqual(getattr(first, EVENT_TYPES), ["a"])
        self.assertEqual(first.throttle_rate if SECOND else first.rate_limit, 50)
        self.assertEqual(endpoints.get_secret(app.id, "one").key, secret)
        self.assertEqual(endpoints.get(app.id, "one"), first)
        self.refused(409, "conflict", endpoints.create, app.id, m.EndpointIn(url=self.receiver.url, uid="one"))
        self.invalid(endpoints.create, app.id, m.EndpointIn(url="no URL"))
        unheard = {EVENT_TYPES: ["unheard-of"]}
        self.invalid(endpoints.create, app.id, m.EndpointIn(url=self.receiver.url, **unheard))

        second = self.endpoint(app)
        page = endpoints.list(app.id, EndpointListOptions(limit=1))
        self.assertEqual(([found.id for found in page.data], page.done), ([second.id], False))
        rest = endpoints.list(app.id, EndpointListOptions(limit=1, iterator=page.iterator))
        self.assertEqual((rest.data, rest.done), ([first], True))
        oldest = endpoints.list(app.id, EndpointListOptions(order=m.Ordering.ASCENDING))
        self.assertEqual([found.id for found in oldest.data], [first.id, second.id])

        patched = endpoints.patch(app.id, "one", m.EndpointPatch(disabled=True, channels=None))
        self.assertEqual((patched.disabled, patched.channels, patched.description), (True, None, "first"))
        whole = upsert(endpoints, app.id, "one", EndpointUpsertIn(url=self.receiver.url + "x", uid="one"))
        self.assertEqual((whole.id, whole.disabled, whole.description), (first.id, False, ""))
        self.assertEqual((whole.url, whole.metadata), (self.receiver.url + "x", {}))
        self.assertEqual(endpoints.get_secret(app.id, "one").key, secret)
        endpoints.delete(app.id, second.id)
        self.refused(404, "not_found", endpoints.get, app.id, second.id)

    def test_headers_are_managed_and_sent(self):
        endpoints = self.svix.endpoint
        app = self.app()
        endpoint = self.endpoint(app, uid="one", **({"headers": {"x-a": "1", "x-c": "3"}} if SECOND else {}))
        if not SECOND:
            endpoints.update_headers(app.id, "one", m.EndpointHeadersIn(headers={"x-a": "1"}))
        gone = {"delete_headers": ["x-c"]} if SECOND else {}
        endpoints.patch_headers(app.id, "one", m.EndpointHeadersPatchIn(headers={"X-B": "2"}, **gone))
        got = endpoints.get_headers(app.id, "one")
        self.assertEqual((got.headers, got.sensitive), ({"x-a": "1", "X-B": "2"}, []))
        self.message(app)
        headers, body = self.receiver.next()
        self.assertEqual((headers["x-a"], headers["x-b"]), ("1", "2"))
        self.assert_verifies(endpoints.get_secret(app.id, endpoint.id).key, headers, body)
        put = getattr(endpoints, SET_HEADERS)
        put(app.id, "one", m.EndpointHeadersIn(headers={"authorization": "Basic x"}))
        got = endpoints.get_headers(app.id, "one")
        self.assertEqual((got.headers, got.sensitive), ({}, ["authorization"]))
        self.message(app)
        headers, _ = self.receiver.next()
        self.assertEqual(headers["authorization"], "Basic x")
        self.assertNotIn("x-a", headers)
        self.invalid(put, app.id, "one", m.EndpointHeadersIn(headers={"content-length": "3"}))
