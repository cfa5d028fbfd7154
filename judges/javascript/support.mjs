// What the cases of the JavaScript judge share: a client, a receiver, waiting with a deadline, and how the SDK says no.
//
// Every case runs in a process of its own against a server of its own, of which it knows the URL and a token.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import * as standardwebhooks from "standardwebhooks";
import {
  ApiException,
  BackgroundTaskStatus,
  Svix,
  Webhook,
  WebhookVerificationError,
} from "svix";

const DEADLINE_MS = 30_000;

export const client = (token) => new Svix(token, { serverUrl: process.env.POSTRIDER_URL });

export const svix = client(process.env.POSTRIDER_TOKEN);

/// Ids, by which lists are ordered, tell instants apart that are 4 ms from each other.
const apart = () => sleep(5);

export async function app(members = {}) {
  await apart();
  return svix.application.create({ name: "from JavaScript", ...members });
}

export async function endpoint(app, receiver, members = {}) {
  await apart();
  return svix.endpoint.create(app.id, { url: receiver.url, ...members });
}

export async function message(app, eventType = "a", members = {}) {
  await apart();
  return svix.message.create(app.id, { eventType, payload: {}, ...members });
}

export const ids = (things) => things.map((thing) => thing.id);

/// A webhook receiver on a free port. What arrives is taken from it with `next`.
export class Receiver {
  #arrived = [];
  #waiting = [];
  statuses = [];

  static async start() {
    const receiver = new Receiver();
    receiver.server = createServer(async (request, response) => {
      const chunks = await collect(request);
      const delivery = { headers: request.headers, body: Buffer.concat(chunks) };
      response.writeHead(receiver.statuses.shift() ?? 200).end();
      const waiting = receiver.#waiting.shift();
      if (waiting) waiting(delivery);
      else receiver.#arrived.push(delivery);
    });
    await new Promise((resolve) => receiver.server.listen(0, "127.0.0.1", resolve));
    receiver.server.unref();
    receiver.url = `http://127.0.0.1:${receiver.server.address().port}/`;
    return receiver;
  }

  get isEmpty() {
    return this.#arrived.length === 0;
  }

  next() {
    const arrived = this.#arrived.shift();
    if (arrived) return arrived;
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error("waited in vain for a delivery")), DEADLINE_MS);
      this.#waiting.push((delivery) => {
        clearTimeout(late);
        resolve(delivery);
      });
    });
  }

  /// The ids of the next `count` deliveries, sorted.
  async ids(count) {
    const found = [];
    while (found.length < count) found.push((await this.next()).headers["webhook-id"]);
    return found.sort();
  }
}

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

/// Both published verifiers take it, and refuse it when one byte is added.
export function assertVerifies(secret, { headers, body }) {
  assert.match(secret, /^whsec_/);
  const text = body.toString();
  new Webhook(secret).verify(text, headers);
  new standardwebhooks.Webhook(secret).verify(text, headers);
  assert.throws(() => new Webhook(secret).verify(`${text} `, headers), WebhookVerificationError);
}

/// Looks again and again until `look` returns something that is true.
export async function eventually(what, look) {
  const end = performance.now() + DEADLINE_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    assert.ok(performance.now() < end, `waited in vain for ${what}`);
    await sleep(20);
  }
}

/// The attempts of a message, as soon as there are `count`.
export const attempts = (app, message, count, options = {}) =>
  eventually(`${count} attempts`, async () => {
    const { data } = await svix.messageAttempt.listByMsg(app.id, message.id, options);
    return data.length >= count && data;
  });

/// The background task, when it has finished.
export const finished = (task) =>
  eventually(`the end of ${task.task}`, async () => {
    const found = await svix.backgroundTask.get(task.id);
    assert.notEqual(found.status, BackgroundTaskStatus.Failed);
    return found.status === BackgroundTaskStatus.Finished && found;
  });

/// The call is answered with this status and code, and the SDK says so with its own exception.
export async function refused(status, code, call) {
  const raised = await thrown(call);
  // The SDK leaves what comes with a 5xx as it is.
  const body = typeof raised.body === "string" ? JSON.parse(raised.body) : raised.body;
  assert.deepEqual([raised.code, body.code], [status, code]);
  assert.ok(body.detail);
  return body;
}

/// The call is answered with 422, and the SDK could read which member is wrong.
export async function invalid(call) {
  const raised = await thrown(call);
  assert.equal(raised.code, 422);
  const [first] = raised.body.detail;
  assert.ok(first.msg && first.type);
  return first;
}

async function thrown(call) {
  try {
    await call();
  } catch (raised) {
    assert.ok(raised instanceof ApiException, `${raised}`);
    return raised;
  }
  assert.fail("the call was not refused");
}
