// Messages on their way: what arrives, signed by whom, when tried again.

import assert from "node:assert/strict";
import { MessageAttemptTriggerType, MessageStatus, messageInRaw } from "svix";
import { app, assertVerifies, attempts, endpoint, message, Receiver, refused, svix } from "./support.mjs";

const secretOf = async (owner, of) => (await svix.endpoint.getSecret(owner.id, of.id)).key;

export async function what_is_sent_arrives_and_verifies() {
  const receiver = await Receiver.start();
  const owner = await app({ uid: "main" });
  const target = await endpoint(owner, receiver);
  const sent = await svix.message.create(
    "main",
    { eventType: "user.created", eventId: "first", payload: { name: "Zoë", n: 1 } },
    { withContent: true },
  );
  assert.deepEqual(sent.payload, { name: "Zoë", n: 1 });
  assert.deepEqual([sent.eventType, sent.eventId], ["user.created", "first"]);
  const delivery = await receiver.next();
  assert.equal(delivery.headers["webhook-id"], sent.id);
  assert.equal(delivery.body.toString(), '{"name":"Zoë","n":1}');
  assertVerifies(await secretOf(owner, target), delivery);

  const [attempt] = await attempts(owner, sent, 1, { withContent: true });
  assert.deepEqual([attempt.status, attempt.responseStatusCode], [MessageStatus.Success, 200]);
  assert.deepEqual([attempt.msgId, attempt.endpointId], [sent.id, target.id]);
  assert.deepEqual([attempt.url, attempt.response], [receiver.url, ""]);
  assert.ok(attempt.timestamp >= sent.timestamp);
  const one = await svix.messageAttempt.get(owner.id, sent.id, attempt.id);
  assert.deepEqual([one.id, one.timestamp], [attempt.id, attempt.timestamp]);
  assert.deepEqual(await svix.message.get(owner.id, "first", { withContent: true }), sent);
  const listed = await svix.message.list(owner.id, { limit: 10, withContent: true });
  assert.deepEqual([listed.data, listed.done], [[sent], true]);
  assert.deepEqual((await svix.message.get(owner.id, sent.id)).payload, {});
}

export async function a_raw_payload_arrives_as_it_is() {
  const receiver = await Receiver.start();
  const owner = await app();
  const target = await endpoint(owner, receiver);
  const text = '{ "b" : 1.0,  "a":"\\u00e9" }';
  await svix.message.create(owner.id, messageInRaw("a", text));
  const delivery = await receiver.next();
  assert.equal(delivery.body.toString(), text);
  assertVerifies(await secretOf(owner, target), delivery);
}

export async function a_failure_is_retried_and_logged_and_a_resend_is_possible() {
  const receiver = await Receiver.start();
  const owner = await app();
  const target = await endpoint(owner, receiver);
  receiver.statuses.push(500, 503);
  const sent = await message(owner);
  assert.deepEqual(await receiver.ids(3), [sent.id, sent.id, sent.id]);
  const codes = (found) => found.map((one) => one.responseStatusCode);
  assert.deepEqual(codes(await attempts(owner, sent, 3)), [200, 503, 500]);
  assert.deepEqual(codes(await attempts(owner, sent, 2, { status: MessageStatus.Fail })), [503, 500]);
  await svix.messageAttempt.resend(owner.id, sent.id, target.id);
  const delivery = await receiver.next();
  assert.equal(delivery.headers["webhook-id"], sent.id);
  assertVerifies(await secretOf(owner, target), delivery);
  const [resent] = await attempts(owner, sent, 4);
  assert.equal(resent.triggerType, MessageAttemptTriggerType.Manual);
  const stats = await svix.endpoint.getStats(owner.id, target.id);
  assert.deepEqual(stats, { success: 2, fail: 2, pending: 0, sending: 0, canceled: 0 });
}

export async function a_secret_is_rotated_and_both_sign() {
  const receiver = await Receiver.start();
  const owner = await app();
  const target = await endpoint(owner, receiver);
  const old = await secretOf(owner, target);
  await svix.endpoint.rotateSecret(owner.id, target.id, {});
  const fresh = await secretOf(owner, target);
  assert.notEqual(fresh, old);
  await message(owner);
  let delivery = await receiver.next();
  for (const secret of [old, fresh]) assertVerifies(secret, delivery);
  const given = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
  await svix.endpoint.rotateSecret(owner.id, target.id, { key: given });
  assert.equal(await secretOf(owner, target), given);
  await message(owner);
  delivery = await receiver.next();
  for (const secret of [old, fresh, given]) assertVerifies(secret, delivery);
}

export async function event_types_and_channels_filter() {
  const receiver = await Receiver.start();
  const owner = await app();
  for (const name of ["order.paid", "order.sent"]) await svix.eventType.create({ name, description: "" });
  await endpoint(owner, receiver, { eventTypes: ["order.paid"], channels: ["eu"] });
  await message(owner, "order.sent", { channels: ["eu"] });
  await message(owner, "order.paid", { channels: ["us"] });
  await message(owner, "order.paid");
  const wanted = await message(owner, "order.paid", { channels: ["eu", "us"] });
  assert.deepEqual(wanted.channels, ["eu", "us"]);
  assert.deepEqual(await receiver.ids(1), [wanted.id]);
  assert.ok(receiver.isEmpty);
  const active = async (channels) =>
    (await svix.message.precheck(owner.id, { eventType: "order.paid", channels })).active;
  assert.deepEqual([await active(["eu"]), await active(["us"])], [true, false]);
}

export async function the_same_idempotency_key_is_one_message() {
  const receiver = await Receiver.start();
  const owner = await app();
  await endpoint(owner, receiver);
  const body = { eventType: "a", payload: { x: 1 } };
  const options = { idempotencyKey: "once" };
  const first = await svix.message.create(owner.id, body, options);
  assert.deepEqual(await svix.message.create(owner.id, body, options), first);
  const after = await svix.message.create(owner.id, body);
  assert.deepEqual(await receiver.ids(2), [first.id, after.id].sort());
  assert.equal((await svix.message.list(owner.id)).data.length, 2);
}

export async function an_example_is_sent() {
  const receiver = await Receiver.start();
  const owner = await app();
  const target = await endpoint(owner, receiver);
  const schemas = { 1: { type: "object", examples: [{ id: 7 }] } };
  await svix.eventType.create({ name: "thing.made", description: "", schemas });
  const example = (eventType) => svix.endpoint.sendExample(owner.id, target.id, { eventType });
  for (const [name, text] of [["thing.made", '{"id":7}'], ["svix.ping", '{"success": true}']]) {
    const sent = await example(name);
    const delivery = await receiver.next();
    assert.deepEqual([delivery.headers["webhook-id"], delivery.body.toString()], [sent.id, text]);
    assertVerifies(await secretOf(owner, target), delivery);
  }
  await svix.eventType.create({ name: "thing.bare", description: "" });
  await refused(400, "invalid_scheme", () => example("thing.bare"));
  await refused(404, "not_found", () => example("thing.unknown"));
}
