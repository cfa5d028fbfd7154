// Who may do what, what an environment is told of itself, and how the SDK hears of errors.

package main

import (
	"encoding/json"
	"strings"

	svix "github.com/svix/svix-webhooks/go"
	"github.com/svix/svix-webhooks/go/models"
)

func aPortalToken() {
	r := listen()
	mine, others := app(models.ApplicationIn{Uid: ptr("mine")}), app(models.ApplicationIn{Uid: ptr("others")})
	endpoint(mine, models.EndpointIn{Url: r.url, Uid: ptr("one")})
	access := func(in models.AppPortalAccessIn) *svix.Svix {
		return client(must(sdk.Authentication.AppPortalAccess(ctx, "mine", in, nil)).Token)
	}
	portal := access(models.AppPortalAccessIn{})
	equal(*must(portal.Endpoint.List(ctx, mine.Id, nil)).Data[0].Uid, "one")
	equal(must(portal.Application.Get(ctx, "mine")).Id, mine.Id)
	refused(404, "not_found", failure(portal.Endpoint.List(ctx, others.Id, nil)))
	refused(403, "insufficient access", failure(portal.Application.List(ctx, nil)))
	in := models.MessageIn{EventType: "a", Payload: map[string]any{}}
	refused(403, "insufficient access", failure(portal.Message.Create(ctx, mine.Id, in, nil)))

	must(sdk.EventType.Create(ctx, models.EventTypeIn{Name: "secret", FeatureFlags: []string{"beta"}}, nil))
	must(sdk.EventType.Create(ctx, models.EventTypeIn{Name: "open"}, nil))
	beta := access(models.AppPortalAccessIn{FeatureFlags: []string{"beta"}})
	equal(len(must(portal.EventType.List(ctx, nil)).Data), 1)
	equal(len(must(beta.EventType.List(ctx, nil)).Data), 2)

	made := models.AppPortalAccessIn{Application: &models.ApplicationIn{Name: "new", Uid: ptr("fresh")}}
	that(must(sdk.Authentication.AppPortalAccess(ctx, "fresh", made, nil)).Url != "", "access has a URL")
	equal(must(sdk.Application.Get(ctx, "fresh")).Name, "new")
	unknown := failure(sdk.Authentication.AppPortalAccess(ctx, "nobody", models.AppPortalAccessIn{}, nil))
	refused(404, "not_found", unknown)
	refused(501, "not_implemented", portal.Authentication.Logout(ctx, nil))
	check(sdk.Authentication.ExpireAll(ctx, "mine", models.ApplicationTokenExpireIn{Expiry: ptr(int64(0))}, nil))
	refused(401, "authentication_failed", failure(portal.Endpoint.List(ctx, mine.Id, nil)))
	refused(401, "authentication_failed", failure(beta.Endpoint.List(ctx, mine.Id, nil)))
	equal(len(must(access(models.AppPortalAccessIn{}).Endpoint.List(ctx, mine.Id, nil)).Data), 1)
	dashboard := must(sdk.Authentication.DashboardAccess(ctx, "mine", nil))
	equal(must(client(dashboard.Token).Application.Get(ctx, "mine")).Id, mine.Id)
}

func operationalWebhooksArrive() {
	r := listen()
	hooks := sdk.OperationalWebhook.Endpoint
	types := []string{"endpoint.created", "message.attempt.exhausted"}
	in := models.OperationalWebhookEndpointIn{Url: r.url, Uid: ptr("ops"), Description: ptr("mine"), FilterTypes: types}
	made := must(hooks.Create(ctx, in, nil))
	equal([]string{*made.Uid, made.Description, made.Url}, []string{"ops", "mine", r.url})
	equal(made.FilterTypes, types)
	equal(must(hooks.Get(ctx, "ops")), made)
	equal(must(hooks.List(ctx, nil)).Data, []models.OperationalWebhookEndpointOut{*made})
	headers := models.OperationalWebhookEndpointHeadersIn{Headers: map[string]string{"x-ops": "1"}}
	check(hooks.UpdateHeaders(ctx, "ops", headers))
	equal(must(hooks.GetHeaders(ctx, "ops")).Headers, headers.Headers)
	old := must(hooks.GetSecret(ctx, "ops")).Key
	check(hooks.RotateSecret(ctx, "ops", models.OperationalWebhookEndpointSecretIn{}, nil))
	fresh := must(hooks.GetSecret(ctx, "ops")).Key
	that(old != fresh, "a rotation makes another secret")

	owner := app(models.ApplicationIn{Uid: ptr("watched")})
	target := endpoint(owner, models.EndpointIn{Url: r.url + "customer"})
	arrived := r.next()
	arrived.verifies(old)
	arrived.verifies(fresh)
	equal(arrived.headers.Get("x-ops"), "1")
	created := models.EndpointCreatedEvent{}
	check(json.Unmarshal(arrived.body, &created))
	equal(created.Type, "endpoint.created")
	equal([]string{created.Data.AppId, *created.Data.AppUid, created.Data.EndpointId}, []string{owner.Id, "watched", target.Id})

	r.answer(500, 500, 500, 500)
	sent := message(owner, models.MessageIn{})
	equal(r.ids(4), []string{sent.Id, sent.Id, sent.Id, sent.Id})
	arrived = r.next()
	arrived.verifies(fresh)
	exhausted := models.MessageAttemptExhaustedEvent{}
	check(json.Unmarshal(arrived.body, &exhausted))
	equal([]string{exhausted.Type, exhausted.Data.MsgId}, []string{"message.attempt.exhausted", sent.Id})
	equal(exhausted.Data.LastAttempt.ResponseStatusCode, int16(500))

	update := models.OperationalWebhookEndpointUpdate{Url: r.url + "new", Uid: ptr("ops")}
	changed := must(hooks.Update(ctx, "ops", update))
	equal([]string{changed.Id, changed.Url, changed.Description}, []string{made.Id, r.url + "new", ""})
	check(hooks.Delete(ctx, "ops"))
	refused(404, "not_found", failure(hooks.Get(ctx, made.Id)))
}

func environmentsAreExported() {
	kept := models.EventTypeIn{Name: "kept", Description: "as it was"}
	must(sdk.EventType.Create(ctx, kept, nil))
	exported := must(sdk.Environment.Export(ctx, nil))
	equal(len(exported.EventTypes), 1)
	equal(exported.EventTypes[0].Name, "kept")
	must(sdk.EventType.Patch(ctx, "kept", models.EventTypePatch{Description: ptr("changed")}))
	check(sdk.Environment.Import(ctx, models.EnvironmentIn{EventTypes: []models.EventTypeIn{kept}}, nil))
	equal(must(sdk.EventType.Get(ctx, "kept")).Description, "as it was")
}

func errorsAreTheSdksOwn() {
	refused(404, "not_found", failure(sdk.Application.Get(ctx, "no-such-app")))
	equal(invalid(failure(sdk.Application.Create(ctx, models.ApplicationIn{}, nil))), []string{"body", "name"})
	owner := app(models.ApplicationIn{})
	send := func(app string, in models.MessageIn) error {
		if in.Payload == nil {
			in.Payload = map[string]any{}
		}
		return failure(sdk.Message.Create(ctx, app, in, nil))
	}
	invalid(send(owner.Id, models.MessageIn{EventType: "no blanks"}))
	refused(404, "not_found", send("no-such-app", models.MessageIn{EventType: "a"}))
	for _, token := range []string{"no token", "a.b.c"} {
		detail := refused(401, "authentication_failed", failure(client(token).Application.List(ctx, nil)))
		equal(detail, "Invalid token")
	}
	once := models.MessageIn{EventType: "a", EventId: ptr("once")}
	check(send(owner.Id, once))
	refused(409, "conflict", send(owner.Id, once))
	big := models.MessageIn{EventType: "a", Payload: map[string]any{"text": strings.Repeat("x", 3<<20)}}
	refused(413, "payload_too_large", send(owner.Id, big))
	equal(must(sdk.Application.Get(ctx, owner.Id)).Id, owner.Id)
}

func healthIsTold() {
	check(sdk.Health.Get(ctx))
}

func whatIsAbsentSaysSo() {
	owner := app(models.ApplicationIn{})
	refused(501, "not_implemented", failure(sdk.Integration.List(ctx, owner.Id, nil)))
	refused(501, "not_implemented", failure(sdk.Connector.List(ctx, nil)))
	refused(501, "not_implemented", failure(sdk.Streaming.Stream.List(ctx, nil)))
}
