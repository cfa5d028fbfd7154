// The published JavaScript SDK against a server: only the server's URL is not the SDK's own.
//
//     node judge.mjs --list    the names of the cases
//     node judge.mjs CASE      runs one; `passed: CASE` is printed if all that it claims is so
//
// The server's URL is in POSTRIDER_URL, a token for an empty environment in POSTRIDER_TOKEN.

const [argument] = process.argv.slice(2);
if (argument === "--list") {
  process.env.POSTRIDER_TOKEN ??= "none";
}
const groups = await Promise.all([
  import("./deliveries.mjs"),
  import("./environment.mjs"),
  import("./history.mjs"),
  import("./managed.mjs"),
]);
const cases = Object.assign({}, ...groups);
if (argument === "--list") {
  console.log(Object.keys(cases).sort().join("\n"));
} else {
  await cases[argument]();
  console.log(`passed: ${argument}`);
}
process.exit();
