// Messages on their way: what arrives, signed by whom, when tried again.

package main

import (
	svix "github.com/svix/svix-webhooks/go"
	"github.com/svix/svix-webhooks/go/models"
)

func whatIsSentArrives() {
	r := listen()
	owner := app(models.ApplicationIn{Uid: ptr("main")})
	target := endpoint(owner, models.EndpointIn{Url: r.url})
	payload := map[string]any{"name": "Zoë"}
	in := models.MessageIn{EventType: "user.created", EventId: ptr("first"), Payload: payload}
	sent := must(sdk.Message.Create(ctx, "main", in, &svix.MessageCreateOptions{WithContent: ptr(true)}))
	equal(sent.Payload, payload)
	equal([]string{sent.EventType, *sent.EventId}, []string{"user.created", "first"})
	arrived := r.next()
	equal(arrived.headers.Get("webhook-id"), sent.Id)
	equal(string(arrived.body), `{"name":"Zoë"}`)
	arrived.verifies(secretOf(owner, target.Id))

	attempt := attempts(owner, sent, 1, svix.MessageAttemptListByMsgOptions{WithContent: ptr(true)})[0]
	equal(attempt.Status, models.MESSAGESTATUS_SUCCESS)
	equal(attempt.ResponseStatusCode, int16(200))
	equal([]string{attempt.MsgId, attempt.EndpointId}, []string{sent.Id, target.Id})
	equal([]string{attempt.Url, attempt.Response}, []string{r.url, ""})
	that(!attempt.Timestamp.Before(sent.Timestamp), "an attempt follows its message")
	one := must(sdk.MessageAttempt.Get(ctx, owner.Id, sent.Id, attempt.Id, nil))
	equal(one.Timestamp, attempt.Timestamp)
	equal(must(sdk.Message.Get(ctx, owner.Id, "first", &svix.MessageGetOptions{WithContent: ptr(true)})), sent)
	listed := must(sdk.Message.List(ctx, owner.Id, &svix.MessageListOptions{WithContent: ptr(true)}))
	equal(listed.Data, []models.MessageOut{*sent})
	that(listed.Done, "the list ends")
	bare := must(sdk.Message.Get(ctx, owner.Id, sent.Id, &svix.MessageGetOptions{WithContent: ptr(false)}))
	equal(bare.Payload, map[string]any{})
}

func aRawPayloadArrives() {
	r := listen()
	owner := app(models.ApplicationIn{})
	target := endpoint(owner, models.EndpointIn{Url: r.url})
	text := `{ "b" : 1.0,  "a":"\u00e9" }`
	must(sdk.Message.Create(ctx, owner.Id, *svix.NewMessageInRaw("a", text, nil), nil))
	arrived := r.next()
	equal(string(arrived.body), text)
	arrived.verifies(secretOf(owner, target.Id))
}

func aFailureIsRetriedAndLogged() {
	r := listen()
	owner := app(models.ApplicationIn{})
	target := endpoint(owner, models.EndpointIn{Url: r.url})
	r.answer(500, 503)
	sent := message(owner, models.MessageIn{})
	equal(r.ids(3), []string{sent.Id, sent.Id, sent.Id})
	equal(codes(attempts(owner, sent, 3, svix.MessageAttemptListByMsgOptions{})), []int16{200, 503, 500})
	failed := svix.MessageAttemptListByMsgOptions{Status: ptr(models.MESSAGESTATUS_FAIL)}
	equal(codes(attempts(owner, sent, 2, failed)), []int16{503, 500})
	must(sdk.MessageAttempt.Resend(ctx, owner.Id, sent.Id, target.Id, nil))
	arrived := r.next()
	equal(arrived.headers.Get("webhook-id"), sent.Id)
	arrived.verifies(secretOf(owner, target.Id))
	resent := attempts(owner, sent, 4, svix.MessageAttemptListByMsgOptions{})[0]
	equal(resent.TriggerType, models.MESSAGEATTEMPTTRIGGERTYPE_MANUAL)
	equal(*must(sdk.Endpoint.GetStats(ctx, owner.Id, target.Id, nil)), models.EndpointStats{Success: 2, Fail: 2})
}

func aSecretIsRotated() {
	r := listen()
	owner := app(models.ApplicationIn{})
	target := endpoint(owner, models.EndpointIn{Url: r.url})
	old := secretOf(owner, target.Id)
	check(sdk.Endpoint.RotateSecret(ctx, owner.Id, target.Id, models.EndpointSecretRotateIn{}, nil))
	fresh := secretOf(owner, target.Id)
	that(fresh != old, "a rotation makes another secret")
	message(owner, models.MessageIn{})
	arrived := r.next()
	arrived.verifies(old)
	arrived.verifies(fresh)
	given := "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	check(sdk.Endpoint.RotateSecret(ctx, owner.Id, target.Id, models.EndpointSecretRotateIn{Key: &given}, nil))
	equal(secretOf(owner, target.Id), given)
	message(owner, models.MessageIn{})
	arrived = r.next()
	for _, secret := range []string{old, fresh, given} {
		arrived.verifies(secret)
	}
}

func eventTypesAndChannelsFilter() {
	r := listen()
	owner := app(models.ApplicationIn{})
	for _, name := range []string{"order.paid", "order.sent"} {
		must(sdk.EventType.Create(ctx, models.EventTypeIn{Name: name}, nil))
	}
	endpoint(owner, models.EndpointIn{Url: r.url, FilterTypes: []string{"order.paid"}, Channels: []string{"eu"}})
	message(owner, models.MessageIn{EventType: "order.sent", Channels: []string{"eu"}})
	message(owner, models.MessageIn{EventType: "order.paid", Channels: []string{"us"}})
	message(owner, models.MessageIn{EventType: "order.paid"})
	wanted := message(owner, models.MessageIn{EventType: "order.paid", Channels: []string{"eu", "us"}})
	equal(wanted.Channels, []string{"eu", "us"})
	equal(r.ids(1), []string{wanted.Id})
	equal(len(r.arrived), 0)
	for channel, active := range map[string]bool{"eu": true, "us": false} {
		in := models.MessagePrecheckIn{EventType: "order.paid", Channels: []string{channel}}
		equal(must(sdk.Message.Precheck(ctx, owner.Id, in, nil)).Active, active)
	}
}

func theSameIdempotencyKey() {
	r := listen()
	owner := app(models.ApplicationIn{})
	endpoint(owner, models.EndpointIn{Url: r.url})
	in := models.MessageIn{EventType: "a", Payload: map[string]any{"x": "y"}}
	once := svix.MessageCreateOptions{IdempotencyKey: ptr("once")}
	first := must(sdk.Message.Create(ctx, owner.Id, in, &once))
	equal(must(sdk.Message.Create(ctx, owner.Id, in, &once)), first)
	after := message(owner, in)
	equal(r.ids(2), sorted(first.Id, after.Id))
	equal(len(must(sdk.Message.List(ctx, owner.Id, nil)).Data), 2)
}

func anExampleIsSent() {
	r := listen()
	owner := app(models.ApplicationIn{})
	target := endpoint(owner, models.EndpointIn{Url: r.url})
	schemas := map[string]any{"1": map[string]any{"type": "object", "examples": []any{map[string]any{"id": 7}}}}
	must(sdk.EventType.Create(ctx, models.EventTypeIn{Name: "thing.made", Schemas: &schemas}, nil))
	must(sdk.EventType.Create(ctx, models.EventTypeIn{Name: "thing.bare"}, nil))
	example := func(name string) (*models.MessageOut, error) {
		return sdk.Endpoint.SendExample(ctx, owner.Id, target.Id, models.EventExampleIn{EventType: name}, nil)
	}
	for name, text := range map[string]string{"thing.made": `{"id":7}`, "svix.ping": `{"success": true}`} {
		sent := must(example(name))
		arrived := r.next()
		equal([]string{arrived.headers.Get("webhook-id"), string(arrived.body)}, []string{sent.Id, text})
		arrived.verifies(secretOf(owner, target.Id))
	}
	refused(400, "invalid_scheme", failure(example("thing.bare")))
	refused(404, "not_found", failure(example("thing.unknown")))
}
