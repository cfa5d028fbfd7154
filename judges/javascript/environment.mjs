// Who may do what, what an environment is told of itself, and how the SDK hears of errors.

import assert from "node:assert/strict";
import { Webhook } from "svix";
import {
  app, assertVerifies, client, endpoint, ids, invalid, message, Receiver, refused, svix,
} from "./support.mjs";

export async function a_portal_token_reaches_its_application_only() {
  const receiver = await Receiver.start();
  const [mine, others] = [await app({ uid: "mine" }), await app({ uid: "others" })];
  await endpoint(mine, receiver, { uid: "one" });
  const { authentication } = svix;
  const access = async (body = {}) => client((await authentication.appPortalAccess("mine", body)).token);
  const portal = await access();
  assert.deepEqual((await portal.endpoint.list(mine.id)).data.map((one) => one.uid), ["one"]);
  assert.equal((await portal.application.get("mine")).id, mine.id);
  await refused(404, "not_found", () => portal.endpoint.list(others.id));
  await refused(403, "insufficient access", () => portal.application.list());
  await refused(403, "insufficient access", () => portal.message.create(mine.id, { eventType: "a", payload: {} }));

  await svix.eventType.create({ name: "secret", description: "", featureFlags: ["beta"] });
  await svix.eventType.create({ name: "open", description: "" });
  const seen = async (by) => (await by.eventType.list()).data.map((one) => one.name);
  assert.deepEqual(await seen(portal), ["open"]);
  const beta = await access({ featureFlags: ["beta"] });
  assert.deepEqual(await seen(beta), ["open", "secret"]);

  const fresh = await authentication.appPortalAccess("fresh", { application: { name: "new", uid: "fresh" } });
  assert.ok(fresh.token && new URL(fresh.url));
  assert.equal((await svix.application.get("fresh")).name, "new");
  await refused(404, "not_found", () => authentication.appPortalAccess("nobody", {}));
  await refused(501, "not_implemented", () => portal.authentication.logout());
  await authentication.expireAll("mine", { expiry: 0 });
  for (const expired of [portal, beta]) {
    await refused(401, "authentication_failed", () => expired.endpoint.list(mine.id));
  }
  assert.equal((await (await access()).endpoint.list(mine.id)).data.length, 1);
}

export async function operational_webhooks_are_managed_and_arrive() {
  const receiver = await Receiver.start();
  const { endpoint: hooks } = svix.operationalWebhook;
  const eventTypes = ["endpoint.created", "message.attempt.exhausted"];
  const made = await hooks.create({ url: receiver.url, uid: "ops", description: "mine", eventTypes });
  assert.deepEqual([made.uid, made.description, made.url], ["ops", "mine", receiver.url]);
  assert.deepEqual(made.eventTypes, eventTypes);
  assert.deepEqual(await hooks.get("ops"), made);
  assert.deepEqual(ids((await hooks.list({ limit: 5 })).data), [made.id]);
  await hooks.setHeaders("ops", { headers: { "x-ops": "1" } });
  assert.deepEqual((await hooks.getHeaders("ops")).headers, { "x-ops": "1" });
  const old = (await hooks.getSecret("ops")).key;
  await hooks.rotateSecret("ops", {});
  const fresh = (await hooks.getSecret("ops")).key;
  assert.notEqual(old, fresh);

  const owner = await app({ uid: "watched" });
  const target = await endpoint(owner, { url: `${receiver.url}customer` });
  let delivery = await receiver.next();
  for (const secret of [old, fresh]) assertVerifies(secret, delivery);
  assert.equal(delivery.headers["x-ops"], "1");
  let event = JSON.parse(delivery.body);
  assert.equal(event.type, "endpoint.created");
  assert.deepEqual([event.data.appId, event.data.appUid, event.data.endpointId], [owner.id, "watched", target.id]);

  receiver.statuses.push(500, 500, 500, 500);
  const sent = await message(owner);
  assert.deepEqual(await receiver.ids(4), Array(4).fill(sent.id));
  delivery = await receiver.next();
  new Webhook(fresh).verify(delivery.body.toString(), delivery.headers);
  event = JSON.parse(delivery.body);
  assert.deepEqual([event.type, event.data.msgId], ["message.attempt.exhausted", sent.id]);
  assert.equal(event.data.lastAttempt.responseStatusCode, 500);

  const changed = await hooks.upsert("ops", { url: `${receiver.url}new`, uid: "ops" });
  assert.deepEqual([changed.id, changed.url, changed.description], [made.id, `${receiver.url}new`, ""]);
  await hooks.delete("ops");
  await refused(404, "not_found", () => hooks.get(made.id));
}

export async function environments_are_exported_and_imported() {
  await svix.eventType.create({ name: "kept", description: "as it was" });
  const exported = await svix.environment.export();
  assert.deepEqual(exported.eventTypes.map((one) => one.name), ["kept"]);
  await svix.eventType.patch("kept", { description: "changed" });
  await svix.environment.import({ eventTypes: [{ name: "kept", description: "as it was" }] });
  assert.equal((await svix.eventType.get("kept")).description, "as it was");
}

export async function errors_are_the_sdks_own() {
  await refused(404, "not_found", () => svix.application.get("no-such-app"));
  const wrong = await invalid(() => svix.application.create({ name: "" }));
  assert.deepEqual(wrong.loc, ["body", "name"]);
  const owner = await app();
  await invalid(() => message(owner, "no blanks"));
  await refused(404, "not_found", () => message({ id: "no-such-app" }));
  for (const token of ["no token", "a.b.c"]) {
    const { detail } = await refused(401, "authentication_failed", () => client(token).application.list());
    assert.equal(detail, "Invalid token");
  }
  await message(owner, "a", { eventId: "once" });
  await refused(409, "conflict", () => message(owner, "a", { eventId: "once" }));
  const payload = { text: "x".repeat(3 << 20) };
  await refused(413, "payload_too_large", () => message(owner, "a", { payload }));
  assert.equal((await svix.application.get(owner.id)).id, owner.id);
}

export async function health_is_told() {
  assert.equal(await svix.health.get(), undefined);
}

export async function what_is_absent_says_so() {
  const owner = await app();
  await refused(501, "not_implemented", () => svix.integration.list(owner.id));
  await refused(501, "not_implemented", () => svix.connector.list());
  await refused(501, "not_implemented", () => svix.streaming.stream.list());
}
