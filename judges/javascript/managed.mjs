// What is kept: applications, event types, endpoints.

import assert from "node:assert/strict";
import { Ordering } from "svix";
import { app, assertVerifies, endpoint, ids, invalid, message, Receiver, refused, svix } from "./support.mjs";

export async function applications_are_managed() {
  const { application } = svix;
  const made = await app({ uid: "managed", metadata: { tier: "gold" }, throttleRate: 9 });
  assert.deepEqual([made.name, made.uid, made.metadata], ["from JavaScript", "managed", { tier: "gold" }]);
  assert.equal(made.throttleRate, 9);
  assert.deepEqual(await application.get("managed"), made);
  assert.deepEqual(await application.get(made.id), made);
  assert.deepEqual(await application.getOrCreate({ name: "other", uid: "managed" }), made);
  const other = await application.getOrCreate({ name: "other", uid: "made" });
  assert.deepEqual([other.name, other.uid], ["other", "made"]);
  await refused(409, "conflict", () => application.create({ name: "other", uid: "managed" }));

  const patched = await application.patch(made.id, { name: "renamed" });
  assert.deepEqual([patched.name, patched.uid, patched.metadata], ["renamed", "managed", { tier: "gold" }]);
  const whole = await application.upsert("managed", { name: "whole", uid: "managed" });
  assert.deepEqual([whole.id, whole.metadata, whole.createdAt], [made.id, {}, made.createdAt]);
  assert.equal(whole.throttleRate ?? null, null);
  assert.ok(![made.id, other.id].includes((await application.upsert("nowhere", { name: "new" })).id));

  await application.delete("managed");
  await refused(404, "not_found", () => application.get(made.id));
  await refused(404, "not_found", () => application.delete(made.id));
  assert.notEqual((await app({ uid: "managed" })).id, made.id);
}

export async function applications_are_listed_in_both_directions() {
  const made = [];
  while (made.length < 5) made.push((await app()).id);
  const page = async (expected, done, options) => {
    const listed = await svix.application.list({ limit: 2, ...options });
    assert.deepEqual([ids(listed.data), listed.done], [expected, done]);
    return listed;
  };
  const first = await page(made.slice(0, 2), false, {});
  const second = await page(made.slice(2, 4), false, { iterator: first.iterator });
  const third = await page(made.slice(4), true, { iterator: second.iterator });
  const back = await page(made.slice(2, 4), false, { iterator: third.prevIterator });
  await page(made.slice(0, 2), true, { iterator: back.prevIterator });
  const order = Ordering.Descending;
  const reversed = [...made].reverse();
  const last = await page(reversed.slice(0, 2), false, { order });
  const before = await page(reversed.slice(2, 4), false, { order, iterator: last.iterator });
  await page(reversed.slice(0, 2), true, { order, iterator: before.prevIterator });
}

export async function event_types_are_managed() {
  const { eventType } = svix;
  const schemas = { 1: { type: "object", required: ["id"] } };
  const members = { featureFlags: ["beta"], groupName: "orders" };
  const made = await eventType.create({ name: "order.sent", description: "on its way", schemas, ...members });
  assert.deepEqual([made.name, made.description, made.schemas], ["order.sent", "on its way", schemas]);
  assert.deepEqual([made.archived, made.deprecated], [false, false]);
  assert.deepEqual([made.featureFlags, made.groupName], [["beta"], "orders"]);
  assert.deepEqual(await eventType.get("order.sent"), made);
  await refused(409, "event_type_exists", () => eventType.create({ name: "order.sent", description: "" }));
  await invalid(() => eventType.create({ name: "no blanks", description: "" }));
  await eventType.create({ name: "order.paid", description: "" });

  const names = async (options) => (await eventType.list(options)).data.map((one) => one.name);
  assert.deepEqual(await names(), ["order.paid", "order.sent"]);
  const listed = await eventType.list({ limit: 1 });
  assert.deepEqual([listed.iterator, listed.done], ["order.paid", false]);
  assert.deepEqual(await names({ limit: 1, iterator: listed.iterator }), ["order.sent"]);
  const withContent = await eventType.list({ withContent: true });
  assert.deepEqual(withContent.data.map((one) => one.schemas ?? null), [null, schemas]);
  assert.deepEqual((await eventType.list()).data.map((one) => one.schemas ?? null), [null, null]);

  const patched = await eventType.patch("order.sent", { description: "gone" });
  assert.deepEqual([patched.description, patched.schemas], ["gone", schemas]);
  const whole = await eventType.upsert("order.sent", { description: "again", deprecated: true });
  assert.deepEqual([whole.description, whole.deprecated, whole.schemas ?? null], ["again", true, null]);
  await eventType.upsert("order.lost", { description: "never seen again" });
  await eventType.delete("order.sent");
  assert.deepEqual(await names(), ["order.lost", "order.paid"]);
  assert.deepEqual(await names({ includeArchived: true }), ["order.lost", "order.paid", "order.sent"]);
  assert.ok((await eventType.get("order.sent")).archived);
  await eventType.delete("order.sent", { expunge: true });
  await refused(404, "not_found", () => eventType.get("order.sent"));
}

export async function event_types_come_from_an_openapi_document() {
  const properties = { id: { type: "string" } };
  const webhook = (description) => {
    const requestBody = { content: { "application/json": { schema: { type: "object", properties } } } };
    return { post: { description, requestBody, responses: { 200: { description: "" } } } };
  };
  const spec = {
    openapi: "3.1.0",
    info: { title: "events", version: "1" },
    webhooks: { "user.born": webhook("somebody new"), "user.gone": webhook("somebody left") },
  };
  const tried = await svix.eventType.importOpenapi({ spec, dryRun: true });
  assert.deepEqual(tried.data.toModify.map((one) => one.name).sort(), ["user.born", "user.gone"]);
  assert.deepEqual((await svix.eventType.list()).data, []);
  const done = await svix.eventType.importOpenapi({ spec });
  assert.deepEqual(done.data.modified.sort(), ["user.born", "user.gone"]);
  const found = await svix.eventType.get("user.born");
  assert.equal(found.description, "somebody new");
  assert.deepEqual(found.schemas[1].properties, properties);
  delete spec.webhooks["user.gone"];
  await svix.eventType.importOpenapi({ specRaw: JSON.stringify(spec), replaceAll: true });
  assert.ok((await svix.eventType.get("user.gone")).archived);
}

export async function endpoints_are_managed() {
  const receiver = await Receiver.start();
  const { endpoint: endpoints } = svix;
  const owner = await app();
  await svix.eventType.create({ name: "a", description: "" });
  const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
  const members = { uid: "one", description: "first", metadata: { k: "v" }, channels: ["eu"], eventTypes: ["a"] };
  const first = await endpoint(owner, receiver, { ...members, secret, throttleRate: 50 });
  for (const [name, value] of Object.entries(members)) assert.deepEqual(first[name], value, name);
  assert.deepEqual([first.url, first.disabled, first.throttleRate], [receiver.url, false, 50]);
  assert.equal((await endpoints.getSecret(owner.id, "one")).key, secret);
  assert.deepEqual(await endpoints.get(owner.id, "one"), first);
  await refused(409, "conflict", () => endpoint(owner, receiver, { uid: "one" }));
  await invalid(() => endpoint(owner, { url: "no URL" }));
  await invalid(() => endpoint(owner, receiver, { eventTypes: ["unheard-of"] }));

  const second = await endpoint(owner, receiver);
  const page = await endpoints.list(owner.id, { limit: 1 });
  assert.deepEqual([ids(page.data), page.done], [[second.id], false]);
  const rest = await endpoints.list(owner.id, { limit: 1, iterator: page.iterator });
  assert.deepEqual([rest.data, rest.done], [[first], true]);
  const oldest = await endpoints.list(owner.id, { order: Ordering.Ascending });
  assert.deepEqual(ids(oldest.data), [first.id, second.id]);

  const patched = await endpoints.patch(owner.id, "one", { disabled: true, channels: null });
  assert.deepEqual([patched.disabled, patched.channels ?? null, patched.description], [true, null, "first"]);
  const whole = await endpoints.upsert(owner.id, "one", { url: `${receiver.url}x`, uid: "one" });
  assert.deepEqual([whole.id, whole.disabled, whole.description], [first.id, false, ""]);
  assert.deepEqual([whole.url, whole.metadata], [`${receiver.url}x`, {}]);
  assert.equal((await endpoints.getSecret(owner.id, "one")).key, secret);
  await endpoints.delete(owner.id, second.id);
  await refused(404, "not_found", () => endpoints.get(owner.id, second.id));
}

export async function headers_are_managed_and_sent() {
  const receiver = await Receiver.start();
  const { endpoint: endpoints } = svix;
  const owner = await app();
  await endpoint(owner, receiver, { uid: "one", headers: { "x-a": "1", "x-c": "3" } });
  await endpoints.patchHeaders(owner.id, "one", { headers: { "X-B": "2" }, deleteHeaders: ["x-c"] });
  assert.deepEqual(await endpoints.getHeaders(owner.id, "one"), { headers: { "x-a": "1", "X-B": "2" }, sensitive: [] });
  await message(owner);
  const delivery = await receiver.next();
  assert.deepEqual([delivery.headers["x-a"], delivery.headers["x-b"]], ["1", "2"]);
  assertVerifies((await endpoints.getSecret(owner.id, "one")).key, delivery);
  await endpoints.setHeaders(owner.id, "one", { headers: { authorization: "Basic x" } });
  assert.deepEqual(await endpoints.getHeaders(owner.id, "one"), { headers: {}, sensitive: ["authorization"] });
  await message(owner);
  const { headers } = await receiver.next();
  assert.deepEqual([headers.authorization, headers["x-a"]], ["Basic x", undefined]);
  await invalid(() => endpoints.setHeaders(owner.id, "one", { headers: { "content-length": "3" } }));
}
