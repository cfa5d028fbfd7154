//! Event types from an OpenAPI document.

use serde_json::{Value, json};

use crate::world::{World, ids};

const PATH: &str = "/event-type/import/openapi";

fn spec(description: &str) -> Value {
    json!({
        "openapi": "3.1.0",
        "webhooks": {
            "user.created": { "post": {
                "description": description, "tags": ["user"],
                "requestBody": { "content": { "application/json": {
                    "schema": { "$ref": "#/components/schemas/User" },
                    "examples": { "one": { "value": { "id": "u_1" } } },
                } } },
            } },
            "user.deleted": { "post": {} },
        },
        "components": { "schemas": {
            "User": { "type": "object", "required": ["id"], "properties": { "id": { "type": "string" } } },
        } },
    })
}

async fn names(world: &World) -> Vec<String> {
    ids(&world.get("/event-type").await.expect(200))
}

#[tokio::test]
async fn what_a_document_describes_is_there_afterwards() {
    let world = World::new();
    let done = world.post(PATH, json!({ "spec": spec("A user.") })).await.expect(200);
    assert_eq!(done, json!({ "data": { "modified": ["user.created", "user.deleted"] } }));
    let made = world.get("/event-type/user.created").await.expect(200);
    assert_eq!((&made["description"], &made["groupName"]), (&json!("A user."), &json!("user")));
    assert_eq!(made["schemas"]["1"]["required"], json!(["id"]));
    assert_eq!(made["schemas"]["1"]["examples"], json!([{ "id": "u_1" }]));
    // Again: nothing changes. Another description: that one does.
    let same = world.post(PATH, json!({ "spec": spec("A user.") })).await.expect(200);
    assert_eq!(same["data"]["modified"], json!([]));
    assert_eq!(world.get("/event-type/user.created").await.expect(200), made);
    let other = world.post(PATH, json!({ "specRaw": spec("Other.").to_string() })).await.expect(200);
    assert_eq!(other["data"]["modified"], json!(["user.created"]));
}

#[tokio::test]
async fn imported_schemas_can_be_enforced() {
    let world = World::new();
    world.app("shop").await;
    world.post(PATH, json!({ "spec": spec("") })).await.expect(200);
    world.send("PATCH", "/environment/settings", json!({ "schemaEnforcement": "reject" })).await.expect(200);
    let message = |payload: Value| json!({ "eventType": "user.created", "payload": payload });
    world.post("/app/shop/msg", message(json!({ "id": "u_1" }))).await.expect(202);
    assert_eq!(world.post("/app/shop/msg", message(json!({ "id": 1 }))).await.invalid(), ["body.payload.id"]);
}

#[tokio::test]
async fn trying_out_changes_nothing() {
    let world = World::new();
    world.post("/event-type", json!({ "name": "own", "description": "" })).await.expect(201);
    let body = json!({ "spec": spec("A user."), "dryRun": true, "replaceAll": true });
    let tried = world.post(PATH, body.clone()).await.expect(200)["data"].clone();
    assert_eq!(tried["modified"], json!(["own", "user.created", "user.deleted"]));
    let first = &tried["to_modify"][0];
    assert_eq!((&first["name"], &first["deprecated"]), (&json!("user.created"), &json!(false)));
    assert_eq!(first["schemas"]["1"]["type"], "object");
    assert_eq!(names(&world).await, ["own"]);
    let mut body = body;
    body["dryRun"] = json!(false);
    assert_eq!(world.post(PATH, body).await.expect(200)["data"]["modified"], tried["modified"]);
    assert_eq!(names(&world).await, ["user.created", "user.deleted"]);
    assert_eq!(world.get("/event-type/own").await.expect(200)["archived"], true);
}

#[tokio::test]
async fn an_archived_event_type_is_revived_and_keeps_its_flag() {
    let world = World::new();
    let body = json!({ "name": "user.created", "description": "", "featureFlags": ["beta"] });
    world.post("/event-type", body).await.expect(201);
    world.delete("/event-type/user.created").await.expect(204);
    let done = world.post(PATH, json!({ "spec": spec("") })).await.expect(200);
    assert_eq!(done["data"]["modified"], json!(["user.created", "user.deleted"]));
    let read = world.get("/event-type/user.created").await.expect(200);
    assert_eq!((&read["archived"], &read["featureFlag"]), (&json!(false), &json!("beta")));
}

#[tokio::test]
async fn yaml_of_3_0_is_read_too() {
    let world = World::new();
    let text = r"
openapi: 3.0.3
x-webhooks:
  order.paid:
    post:
      summary: An order was paid.
      requestBody:
        content:
          application/json:
            schema: {$ref: '#/components/schemas/Order'}
components:
  schemas:
    Order:
      type: object
      properties:
        note: {type: string, nullable: true}
";
    world.post(PATH, json!({ "specRaw": text })).await.expect(200);
    let read = world.get("/event-type/order.paid").await.expect(200);
    assert_eq!(read["description"], "An order was paid.");
    assert_eq!(read["schemas"]["1"]["properties"]["note"]["type"], json!(["string", "null"]));
}

#[tokio::test]
async fn what_cannot_be_imported_changes_nothing() {
    let world = World::new();
    for body in [json!({}), json!({ "spec": spec(""), "specRaw": "" })] {
        world.post(PATH, body).await.refused(400, "generic_error");
    }
    let mut bad = spec("");
    bad["webhooks"]["user.deleted"] = json!({ "post": { "requestBody": { "content": { "application/json": {
        "schema": { "$ref": "http://127.0.0.1:1/schema.json" },
    } } } } });
    assert_eq!(world.post(PATH, json!({ "spec": bad })).await.invalid(), ["body.spec.webhooks.user.deleted"]);
    let bomb = format!("a: &a [x]\nb: {}", "[*a, *a]".repeat(3));
    assert_eq!(world.post(PATH, json!({ "specRaw": bomb })).await.invalid(), ["body.specRaw"]);
    assert_eq!(world.post(PATH, json!({ "specRaw": "swagger: '2.0'" })).await.invalid(), ["body.specRaw.openapi"]);
    assert_eq!(names(&world).await, Vec::<String>::new());
}
