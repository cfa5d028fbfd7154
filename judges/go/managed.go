// What is kept: applications, event types, endpoints.

package main

import (
	"encoding/json"

	svix "github.com/svix/svix-webhooks/go"
	"github.com/svix/svix-webhooks/go/models"
	"github.com/svix/svix-webhooks/go/utils"
)

func applicationsAreManaged() {
	gold := map[string]string{"tier": "gold"}
	in := models.ApplicationIn{Uid: ptr("managed"), Metadata: &gold, ThrottleRate: ptr(uint16(9))}
	made := app(in)
	equal([]string{made.Name, *made.Uid}, []string{"from Go", "managed"})
	equal(made.Metadata, gold)
	equal(*made.ThrottleRate, uint16(9))
	equal(must(sdk.Application.Get(ctx, "managed")), made)
	equal(must(sdk.Application.Get(ctx, made.Id)), made)
	taken := models.ApplicationIn{Name: "other", Uid: ptr("managed")}
	equal(must(sdk.Application.GetOrCreate(ctx, taken, nil)), made)
	other := must(sdk.Application.GetOrCreate(ctx, models.ApplicationIn{Name: "other", Uid: ptr("made")}, nil))
	equal([]string{other.Name, *other.Uid}, []string{"other", "made"})
	refused(409, "conflict", failure(sdk.Application.Create(ctx, taken, nil)))

	patched := must(sdk.Application.Patch(ctx, made.Id, models.ApplicationPatch{Name: ptr("renamed")}))
	equal([]string{patched.Name, *patched.Uid}, []string{"renamed", "managed"})
	equal(patched.Metadata, gold)
	whole := must(sdk.Application.Update(ctx, "managed", models.ApplicationIn{Name: "whole", Uid: ptr("managed")}))
	equal(whole.Id, made.Id)
	equal(whole.CreatedAt, made.CreatedAt)
	equal(len(whole.Metadata), 0)
	that(whole.ThrottleRate == nil, "an update resets what it leaves out")
	fresh := must(sdk.Application.Update(ctx, "nowhere", models.ApplicationIn{Name: "new"}))
	that(fresh.Id != made.Id && fresh.Id != other.Id, "an update of nothing creates")

	check(sdk.Application.Delete(ctx, "managed"))
	refused(404, "not_found", failure(sdk.Application.Get(ctx, made.Id)))
	refused(404, "not_found", sdk.Application.Delete(ctx, made.Id))
	that(app(models.ApplicationIn{Uid: ptr("managed")}).Id != made.Id, "the uid is free again")
}

func applicationsAreListed() {
	made := []string{}
	for len(made) < 5 {
		made = append(made, app(models.ApplicationIn{}).Id)
	}
	page := func(want []string, done bool, o svix.ApplicationListOptions) *models.ListResponseApplicationOut {
		o.Limit = ptr(uint64(2))
		listed := must(sdk.Application.List(ctx, &o))
		equal(each(listed.Data, func(one models.ApplicationOut) string { return one.Id }), want)
		equal(listed.Done, done)
		return listed
	}
	first := page(made[:2], false, svix.ApplicationListOptions{})
	second := page(made[2:4], false, svix.ApplicationListOptions{Iterator: first.Iterator})
	third := page(made[4:], true, svix.ApplicationListOptions{Iterator: second.Iterator})
	back := page(made[2:4], false, svix.ApplicationListOptions{Iterator: third.PrevIterator})
	page(made[:2], true, svix.ApplicationListOptions{Iterator: back.PrevIterator})
	order := ptr(models.ORDERING_DESCENDING)
	last := page([]string{made[4], made[3]}, false, svix.ApplicationListOptions{Order: order})
	before := page([]string{made[2], made[1]}, false, svix.ApplicationListOptions{Order: order, Iterator: last.Iterator})
	page([]string{made[4], made[3]}, true, svix.ApplicationListOptions{Order: order, Iterator: before.PrevIterator})
}

func typeNames(o *svix.EventTypeListOptions) []string {
	return each(must(sdk.EventType.List(ctx, o)).Data, func(one models.EventTypeOut) string { return one.Name })
}

func eventTypesAreManaged() {
	schemas := map[string]any{"1": map[string]any{"type": "object"}}
	in := models.EventTypeIn{
		Name: "order.sent", Description: "on its way", Schemas: &schemas, FeatureFlags: []string{"beta"}, GroupName: ptr("orders"),
	}
	made := must(sdk.EventType.Create(ctx, in, nil))
	equal([]string{made.Name, made.Description, *made.GroupName}, []string{"order.sent", "on its way", "orders"})
	equal(*made.Schemas, schemas)
	equal(made.FeatureFlags, []string{"beta"})
	equal([]bool{*made.Archived, made.Deprecated}, []bool{false, false})
	equal(must(sdk.EventType.Get(ctx, "order.sent")), made)
	refused(409, "event_type_exists", failure(sdk.EventType.Create(ctx, in, nil)))
	invalid(failure(sdk.EventType.Create(ctx, models.EventTypeIn{Name: "no blanks"}, nil)))
	must(sdk.EventType.Create(ctx, models.EventTypeIn{Name: "order.paid"}, nil))

	equal(typeNames(nil), []string{"order.paid", "order.sent"})
	listed := must(sdk.EventType.List(ctx, &svix.EventTypeListOptions{Limit: ptr(uint64(1))}))
	equal(*listed.Iterator, "order.paid")
	equal(listed.Done, false)
	equal(typeNames(&svix.EventTypeListOptions{Iterator: listed.Iterator}), []string{"order.sent"})
	withContent := must(sdk.EventType.List(ctx, &svix.EventTypeListOptions{WithContent: ptr(true)})).Data
	equal(*withContent[1].Schemas, schemas)
	that(must(sdk.EventType.List(ctx, nil)).Data[1].Schemas == nil, "schemas are listed if asked for")

	patched := must(sdk.EventType.Patch(ctx, "order.sent", models.EventTypePatch{Description: ptr("gone")}))
	equal(patched.Description, "gone")
	equal(*patched.Schemas, schemas)
	update := models.EventTypeUpdate{Description: "again", Deprecated: ptr(true)}
	whole := must(sdk.EventType.Update(ctx, "order.sent", update))
	equal(whole.Description, "again")
	that(whole.Deprecated && whole.Schemas == nil, "an update resets what it leaves out")
	must(sdk.EventType.Update(ctx, "order.lost", models.EventTypeUpdate{Description: "never seen again"}))
	check(sdk.EventType.Delete(ctx, "order.sent", nil))
	equal(typeNames(nil), []string{"order.lost", "order.paid"})
	archived := svix.EventTypeListOptions{IncludeArchived: ptr(true)}
	equal(typeNames(&archived), []string{"order.lost", "order.paid", "order.sent"})
	that(*must(sdk.EventType.Get(ctx, "order.sent")).Archived, "deleting archives")
	check(sdk.EventType.Delete(ctx, "order.sent", &svix.EventTypeDeleteOptions{Expunge: ptr(true)}))
	refused(404, "not_found", failure(sdk.EventType.Get(ctx, "order.sent")))
}

func eventTypesComeFromOpenapi() {
	const webhook = `{"post":{"description":"somebody new","requestBody":{"content":{"application/json":{"schema":` +
		`{"type":"object","properties":{"id":{"type":"string"}}}}}},"responses":{"200":{"description":""}}}}`
	const head = `{"openapi":"3.1.0","info":{"title":"events","version":"1"},"webhooks":{"user.born":` + webhook
	both, one := head+`,"user.gone":`+webhook+`}}`, head+`}}`
	spec := map[string]any{}
	check(json.Unmarshal([]byte(both), &spec))
	load := func(in models.EventTypeImportOpenApiIn) models.EventTypeImportOpenApiOutData {
		return must(sdk.EventType.ImportOpenapi(ctx, in, nil)).Data
	}
	tried := load(models.EventTypeImportOpenApiIn{Spec: &spec, DryRun: ptr(true)})
	names := each(tried.ToModify, func(one models.EventTypeFromOpenApi) string { return one.Name })
	equal(sorted(names...), []string{"user.born", "user.gone"})
	equal(typeNames(nil), []string{})
	equal(sorted(load(models.EventTypeImportOpenApiIn{Spec: &spec}).Modified...), []string{"user.born", "user.gone"})
	found := must(sdk.EventType.Get(ctx, "user.born"))
	equal(found.Description, "somebody new")
	equal((*found.Schemas)["1"].(map[string]any)["properties"], map[string]any{"id": map[string]any{"type": "string"}})
	load(models.EventTypeImportOpenApiIn{SpecRaw: ptr(one), ReplaceAll: ptr(true)})
	that(*must(sdk.EventType.Get(ctx, "user.gone")).Archived, "what the document lacks is archived")
}

func endpointsAreManaged() {
	r := listen()
	owner := app(models.ApplicationIn{})
	must(sdk.EventType.Create(ctx, models.EventTypeIn{Name: "a"}, nil))
	secret, metadata := "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", map[string]string{"k": "v"}
	first := endpoint(owner, models.EndpointIn{
		Url: r.url, Uid: ptr("one"), Description: ptr("first"), Metadata: &metadata, Channels: []string{"eu"},
		FilterTypes: []string{"a"}, Secret: &secret, ThrottleRate: ptr(uint16(50)),
	})
	equal([]string{first.Url, *first.Uid, first.Description}, []string{r.url, "one", "first"})
	equal(first.Metadata, metadata)
	equal([][]string{first.Channels, first.FilterTypes}, [][]string{{"eu"}, {"a"}})
	equal(*first.ThrottleRate, uint16(50))
	equal(*first.Disabled, false)
	equal(secretOf(owner, "one"), secret)
	equal(must(sdk.Endpoint.Get(ctx, owner.Id, "one")), first)
	create := func(in models.EndpointIn) error { return failure(sdk.Endpoint.Create(ctx, owner.Id, in, nil)) }
	refused(409, "conflict", create(models.EndpointIn{Url: r.url, Uid: ptr("one")}))
	invalid(create(models.EndpointIn{Url: "no URL"}))
	invalid(create(models.EndpointIn{Url: r.url, FilterTypes: []string{"unheard-of"}}))

	second := endpoint(owner, models.EndpointIn{Url: r.url})
	page := must(sdk.Endpoint.List(ctx, owner.Id, &svix.EndpointListOptions{Limit: ptr(uint64(1))}))
	equal([]any{page.Data[0].Id, page.Done}, []any{second.Id, false})
	rest := must(sdk.Endpoint.List(ctx, owner.Id, &svix.EndpointListOptions{Iterator: page.Iterator}))
	equal(rest.Data, []models.EndpointOut{*first})
	equal(rest.Done, true)
	oldest := must(sdk.Endpoint.List(ctx, owner.Id, &svix.EndpointListOptions{Order: ptr(models.ORDERING_ASCENDING)}))
	equal([]string{oldest.Data[0].Id, oldest.Data[1].Id}, []string{first.Id, second.Id})

	patch := models.EndpointPatch{Disabled: ptr(true), Channels: utils.NewNullableFromPtr[[]string](nil)}
	patched := must(sdk.Endpoint.Patch(ctx, owner.Id, "one", patch))
	that(*patched.Disabled && patched.Channels == nil, "a patch sets and clears")
	equal(patched.Description, "first")
	update := models.EndpointUpdate{Url: r.url + "x", Uid: ptr("one")}
	whole := must(sdk.Endpoint.Update(ctx, owner.Id, "one", update))
	equal([]string{whole.Id, whole.Url, whole.Description}, []string{first.Id, r.url + "x", ""})
	equal(*whole.Disabled, false)
	equal(secretOf(owner, "one"), secret)
	check(sdk.Endpoint.Delete(ctx, owner.Id, second.Id))
	refused(404, "not_found", failure(sdk.Endpoint.Get(ctx, owner.Id, second.Id)))
}

func headersAreManaged() {
	r := listen()
	owner := app(models.ApplicationIn{})
	given := map[string]string{"x-a": "1", "x-c": "3"}
	endpoint(owner, models.EndpointIn{Url: r.url, Uid: ptr("one"), Headers: &given})
	patch := models.EndpointHeadersPatchIn{Headers: map[string]string{"X-B": "2"}, DeleteHeaders: []string{"x-c"}}
	check(sdk.Endpoint.PatchHeaders(ctx, owner.Id, "one", patch))
	got := must(sdk.Endpoint.GetHeaders(ctx, owner.Id, "one"))
	equal(got.Headers, map[string]string{"x-a": "1", "X-B": "2"})
	equal(got.Sensitive, []string{})
	message(owner, models.MessageIn{})
	arrived := r.next()
	equal([]string{arrived.headers.Get("x-a"), arrived.headers.Get("x-b")}, []string{"1", "2"})
	arrived.verifies(secretOf(owner, "one"))
	put := func(name, value string) error {
		in := models.EndpointHeadersIn{Headers: map[string]string{name: value}}
		return sdk.Endpoint.UpdateHeaders(ctx, owner.Id, "one", in)
	}
	check(put("authorization", "Basic x"))
	got = must(sdk.Endpoint.GetHeaders(ctx, owner.Id, "one"))
	equal(len(got.Headers), 0)
	equal(got.Sensitive, []string{"authorization"})
	message(owner, models.MessageIn{})
	arrived = r.next()
	equal([]string{arrived.headers.Get("authorization"), arrived.headers.Get("x-a")}, []string{"Basic x", ""})
	invalid(put("content-length", "3"))
}
