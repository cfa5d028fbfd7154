// What happened: messages and attempts in lists, expunged, sent again by background tasks.

import assert from "node:assert/strict";
import {
  BackgroundTaskStatus,
  BackgroundTaskType,
  BulkExpungeStatus,
  MessageAttemptTriggerType,
  MessageStatus,
  StatusCodeClass,
} from "svix";
import {
  app, assertVerifies, attempts, endpoint, finished, ids, invalid, message, Receiver, refused, svix,
} from "./support.mjs";

const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;

export async function messages_are_listed_by_every_filter() {
  const owner = await app();
  const plain = await message(owner, "a");
  const eu = await message(owner, "b", { channels: ["eu"] });
  const tagged = await message(owner, "c", { tags: ["red"] });
  for (const [options, expected] of [
    [{}, [tagged, eu, plain]],
    [{ eventTypes: ["a", "b"] }, [eu, plain]],
    [{ channel: "eu" }, [eu]],
    [{ tag: "red" }, [tagged]],
    [{ before: tagged.timestamp }, [eu, plain]],
    [{ after: eu.timestamp }, [tagged, eu]],
    [{ after: eu.timestamp, before: tagged.timestamp }, [eu]],
  ]) {
    assert.deepEqual(ids((await svix.message.list(owner.id, options)).data), ids(expected), JSON.stringify(options));
  }
  const page = await svix.message.list(owner.id, { limit: 2 });
  assert.deepEqual([ids(page.data), page.done], [[tagged.id, eu.id], false]);
  const rest = await svix.message.list(owner.id, { limit: 2, iterator: page.iterator });
  assert.deepEqual([ids(rest.data), rest.done], [[plain.id], true]);
  const back = await svix.message.list(owner.id, { limit: 2, iterator: rest.prevIterator });
  assert.deepEqual([ids(back.data), back.done], [[tagged.id, eu.id], true]);
  assert.deepEqual((await svix.message.get(owner.id, tagged.id)).tags, ["red"]);
}

export async function a_message_waits_until_it_is_to_be_delivered() {
  const receiver = await Receiver.start();
  const owner = await app();
  await endpoint(owner, receiver);
  const deliverAt = new Date(Date.now() + 5 * MINUTE);
  const waiting = await message(owner, "a", { deliverAt });
  assert.deepEqual(waiting.deliverAt, deliverAt);
  assert.deepEqual((await svix.message.get(owner.id, waiting.id)).deliverAt, deliverAt);
  const now = await message(owner);
  assert.deepEqual(await receiver.ids(1), [now.id]);
  await attempts(owner, now, 1);
  assert.deepEqual((await svix.messageAttempt.listByMsg(owner.id, waiting.id)).data, []);
  assert.ok(receiver.isEmpty);
}

export async function payloads_are_expunged() {
  const receiver = await Receiver.start();
  const owner = await app();
  const target = await endpoint(owner, receiver);
  const sent = [];
  for (const n of [0, 1, 2, 3]) sent.push(await message(owner, "a", { payload: { n }, payloadRetentionPeriod: 5 }));
  await receiver.ids(4);
  const payloads = async () => {
    const got = sent.map((one) => svix.message.get(owner.id, one.id, { withContent: true }));
    return (await Promise.all(got)).map((one) => one.payload);
  };
  const gone = { expired: true };
  assert.deepEqual(await payloads(), [{ n: 0 }, { n: 1 }, { n: 2 }, { n: 3 }]);
  await svix.message.expungeContent(owner.id, sent[0].id);
  assert.deepEqual(await payloads(), [gone, { n: 1 }, { n: 2 }, { n: 3 }]);
  await refused(400, "missing_payload", () => svix.messageAttempt.resend(owner.id, sent[0].id, target.id));
  const unknown = "msg_000000000000000000000000000";
  const { results } = await svix.message.bulkExpungeContent(owner.id, { ids: [sent[1].id, unknown] });
  assert.deepEqual(results, { [sent[1].id]: BulkExpungeStatus.Expunged, [unknown]: BulkExpungeStatus.NotFound });
  assert.deepEqual(await payloads(), [gone, gone, { n: 2 }, { n: 3 }]);
  const [attempt] = await attempts(owner, sent[2], 1);
  await svix.messageAttempt.expungeContent(owner.id, sent[2].id, attempt.id);
  assert.equal((await svix.messageAttempt.get(owner.id, sent[2].id, attempt.id)).response, "EXPUNGED");
  const task = await svix.message.expungeAllContents(owner.id);
  assert.equal(task.task, BackgroundTaskType.ApplicationPurgeContent);
  await finished(task);
  assert.deepEqual(await payloads(), [gone, gone, gone, gone]);
}

export async function attempts_are_listed_by_every_filter() {
  const [receiver, other] = [await Receiver.start(), await Receiver.start()];
  const owner = await app();
  const target = await endpoint(owner, receiver);
  const second = await endpoint(owner, other, { channels: ["eu"] });
  receiver.statuses.push(404, 500);
  const failing = await message(owner, "a", { tags: ["red"] });
  await receiver.ids(3);
  await attempts(owner, failing, 3);
  const eu = await message(owner, "b", { channels: ["eu"] });
  await receiver.ids(1);
  await other.next();
  await attempts(owner, eu, 2);
  const list = (options) => svix.messageAttempt.listByEndpoint(owner.id, target.id, options);
  const every = (await list()).data;
  for (const [options, expected] of [
    [{}, [200, 200, 500, 404]],
    [{ status: MessageStatus.Fail }, [500, 404]],
    [{ status: MessageStatus.Success }, [200, 200]],
    [{ statusCodeClass: StatusCodeClass.Code4xx }, [404]],
    [{ eventTypes: ["a"] }, [200, 500, 404]],
    [{ channel: "eu" }, [200]],
    [{ tag: "red" }, [200, 500, 404]],
    [{ tag: "red", status: MessageStatus.Fail, limit: 1 }, [500]],
    [{ limit: 3 }, [200, 200, 500]],
    [{ limit: 3, iterator: every[2].id }, [404]],
    [{ limit: 2, iterator: `-${every[2].id}` }, [200, 200]],
  ]) {
    const codes = (await list(options)).data.map((one) => one.responseStatusCode);
    assert.deepEqual(codes, expected, JSON.stringify(options));
  }
  const withMsg = await list({ withMsg: true });
  assert.deepEqual(withMsg.data.map((one) => one.msg.id), [eu.id, failing.id, failing.id, failing.id]);
  const bare = await attempts(owner, failing, 3, { withContent: false });
  assert.deepEqual(bare.map((one) => one.response), ["{}", "{}", "{}"]);
  const [ofOne] = await attempts(owner, eu, 1, { endpointId: second.id });
  assert.deepEqual([ofOne.endpointId, ofOne.url], [second.id, other.url]);
  const since = new Date(Date.now() - DAY);
  const stats = await svix.endpoint.getStats(owner.id, target.id, { since, until: new Date() });
  assert.deepEqual([stats.success, stats.fail], [2, 2]);
}

export async function attempted_messages_and_destinations_are_listed() {
  const receiver = await Receiver.start();
  const owner = await app();
  const target = await endpoint(owner, receiver);
  const good = await message(owner, "a", { channels: ["eu"], tags: ["red"], payload: { n: 1 } });
  await receiver.ids(1);
  await attempts(owner, good, 1);
  receiver.statuses.push(500, 500, 500, 500);
  const bad = await message(owner, "b");
  await receiver.ids(4);
  await attempts(owner, bad, 4);
  const list = (options) => svix.messageAttempt.listAttemptedMessages(owner.id, target.id, options);
  const both = await list({ withContent: true });
  assert.deepEqual(
    both.data.map((one) => [one.id, one.status, one.statusText, one.payload]),
    [[bad.id, MessageStatus.Fail, "fail", {}], [good.id, MessageStatus.Success, "success", { n: 1 }]],
  );
  for (const [options, expected] of [
    [{ status: MessageStatus.Success }, [good]],
    [{ status: MessageStatus.Fail }, [bad]],
    [{ status: MessageStatus.Sending }, []],
    [{ status: MessageStatus.Pending }, []],
    [{ channel: "eu" }, [good]],
    [{ tag: "red" }, [good]],
    [{ eventTypes: ["b"] }, [bad]],
    [{ before: bad.timestamp }, [good]],
    [{ after: bad.timestamp }, [bad]],
    [{ limit: 1 }, [bad]],
    [{ limit: 1, iterator: bad.id }, [good]],
  ]) {
    assert.deepEqual(ids((await list(options)).data), ids(expected), JSON.stringify(options));
  }
  const second = await endpoint(owner, { url: `${receiver.url}second` });
  await svix.messageAttempt.resend(owner.id, good.id, second.id);
  await receiver.next();
  await attempts(owner, good, 2);
  const places = await svix.messageAttempt.listAttemptedDestinations(owner.id, good.id);
  assert.deepEqual(places.data.map((one) => [one.id, one.url, one.status]), [
    [target.id, receiver.url, MessageStatus.Success],
    [second.id, `${receiver.url}second`, MessageStatus.Success],
  ]);
  const one = await svix.messageAttempt.listAttemptedDestinations(owner.id, good.id, { limit: 1 });
  assert.deepEqual([ids(one.data), one.done], [[target.id], false]);
}

export async function what_failed_is_recovered() {
  const receiver = await Receiver.start();
  const owner = await app();
  const target = await endpoint(owner, receiver);
  receiver.statuses.push(...Array(8).fill(500));
  const failed = [await message(owner, "a"), await message(owner, "b")];
  await receiver.ids(8);
  for (const one of failed) await attempts(owner, one, 4);
  const since = new Date(failed[0].timestamp - MINUTE);
  const { key } = await svix.endpoint.getSecret(owner.id, target.id);
  let task = await svix.endpoint.recover(owner.id, target.id, { since });
  assert.equal(task.task, BackgroundTaskType.EndpointRecover);
  const arrived = [await receiver.next(), await receiver.next()];
  for (const delivery of arrived) assertVerifies(key, delivery);
  assert.deepEqual(arrived.map((one) => one.headers["webhook-id"]).sort(), ids(failed).sort());
  assert.equal((await finished(task)).task, task.task);
  for (const one of failed) {
    assert.equal((await attempts(owner, one, 5))[0].triggerType, MessageAttemptTriggerType.Manual);
  }

  const late = await endpoint(owner, { url: `${receiver.url}late` });
  task = await svix.endpoint.replayMissing(owner.id, late.id, { since });
  assert.equal(task.task, BackgroundTaskType.EndpointReplay);
  assert.deepEqual(await receiver.ids(2), ids(failed).sort());
  await finished(task);
  // What was received counts as sent when its attempt is in the log.
  await attempts(owner, failed[1], 6);
  task = await svix.endpoint.bulkReplay(owner.id, late.id, { since, eventTypes: ["b"] });
  assert.equal(task.task, BackgroundTaskType.EndpointBulkReplay);
  assert.deepEqual(await receiver.ids(1), [failed[1].id]);
  await finished(task);
  assert.ok(receiver.isEmpty);
  const listed = await svix.backgroundTask.list({ task: BackgroundTaskType.EndpointRecover });
  assert.deepEqual(listed.data.map((one) => one.status), [BackgroundTaskStatus.Finished]);
  assert.equal((await svix.backgroundTask.list({ limit: 1 })).data.length, 1);
  await refused(404, "not_found", () => svix.backgroundTask.get("qtask_000000000000000000000000000"));
  const early = new Date(since - 30 * DAY);
  await invalid(() => svix.endpoint.recover(owner.id, target.id, { since: early }));
}

export async function usage_is_counted() {
  const receiver = await Receiver.start();
  const owner = await app({ uid: "busy" });
  await endpoint(owner, receiver);
  await message(owner);
  await receiver.ids(1);
  const asked = { since: new Date(Date.now() - DAY), until: new Date(), appIds: ["busy", "nobody"] };
  let task = await svix.statistics.aggregateAppStats(asked);
  assert.deepEqual([task.task, task.unresolvedAppIds], [BackgroundTaskType.ApplicationStats, ["nobody"]]);
  await finished(task);
  task = await svix.statistics.aggregateEventTypes();
  assert.equal(task.task, BackgroundTaskType.EventTypeAggregate);
  await finished(task);
}
