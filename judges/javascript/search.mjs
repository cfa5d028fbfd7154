// The search of /docs, as the server serves it: what people type leads to the operations that they mean.
import assert from "node:assert/strict";

const url = process.env.POSTRIDER_URL;
const script = await (await fetch(`${url}/docs/docs.js`)).text();
const api = await (await fetch(`${url}/api/v1/openapi.json`)).json();

// Without a page: what builds nodes is defined and not called.
const page = { getElementById: () => null };
const load = new Function("document", "location", `${script.replace(/^start\(\);$/m, "")}\nreturn { query, searchable, operations };`);
const { query, searchable, operations } = load(page, new URL(`${url}/docs/`));
const all = operations(api).flatMap(({ operations: own }) => own).map((operation) => ({ id: operation.operationId, text: searchable(api, operation) }));

/** The ids of what is shown for a text. */
function found(text) {
  const words = query(text);
  return all.filter(({ text: said }) => words.every((spellings) => spellings.some((word) => said.includes(word)))).map(({ id }) => id);
}

for (const [text, wanted] of [
  ["send a message", "v1.message.create"],
  ["sending webhooks", "v1.message.create"],
  ["retry", "v1.message-attempt.resend"],
  ["retry failed", "v1.endpoint.recover"],
  ["pause", "v1.endpoint.patch"],
  ["pause an endpoint", "v1.endpoint.patch"],
  ["rate limit", "v1.endpoint.create"],
  ["failed deliveries", "v1.message-attempt.list-by-endpoint"],
  ["rotate signature", "v1.endpoint.rotate-secret"],
  ["message.create", "v1.message.create"],
]) {
  assert.ok(found(text).includes(wanted), `'${text}' finds ${found(text)}`);
  assert.ok(found(text).length < all.length / 2, `'${text}' finds nearly everything`);
}
assert.deepEqual(found("xyzzy"), []);
console.log("passed");
