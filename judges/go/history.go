// What happened: messages and attempts in lists, expunged, sent again by background tasks. This SDK sends dates without
// a fraction, so its filters by time are coarse.

package main

import (
	"time"

	svix "github.com/svix/svix-webhooks/go"
	"github.com/svix/svix-webhooks/go/models"
)

const unknownMessage = "msg_000000000000000000000000000"

func messageIds(from []models.MessageOut) []string {
	return each(from, func(one models.MessageOut) string { return one.Id })
}

func messagesAreListed() {
	owner := app(models.ApplicationIn{})
	plain := message(owner, models.MessageIn{})
	eu := message(owner, models.MessageIn{EventType: "b", Channels: []string{"eu"}})
	tagged := message(owner, models.MessageIn{EventType: "c", Tags: []string{"red"}})
	all, ago, soon := []string{tagged.Id, eu.Id, plain.Id}, time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	list := func(o svix.MessageListOptions) *models.ListResponseMessageOut {
		return must(sdk.Message.List(ctx, owner.Id, &o))
	}
	for _, asked := range []struct {
		o    svix.MessageListOptions
		want []string
	}{
		{svix.MessageListOptions{}, all},
		{svix.MessageListOptions{EventTypes: &[]string{"a", "b"}}, all[1:]},
		{svix.MessageListOptions{Channel: ptr("eu")}, []string{eu.Id}},
		{svix.MessageListOptions{Tag: ptr("red")}, []string{tagged.Id}},
		{svix.MessageListOptions{Before: &soon, After: &ago}, all},
		{svix.MessageListOptions{Before: &ago}, []string{}},
		{svix.MessageListOptions{After: &ago}, all},
	} {
		equal(messageIds(list(asked.o).Data), asked.want)
	}
	page := list(svix.MessageListOptions{Limit: ptr(uint64(2))})
	equal(messageIds(page.Data), all[:2])
	that(!page.Done, "there is another page")
	rest := list(svix.MessageListOptions{Limit: ptr(uint64(2)), Iterator: page.Iterator})
	equal(messageIds(rest.Data), all[2:])
	back := list(svix.MessageListOptions{Limit: ptr(uint64(2)), Iterator: rest.PrevIterator})
	equal(messageIds(back.Data), all[:2])
	that(rest.Done && back.Done, "both ends are told")
	equal(must(sdk.Message.Get(ctx, owner.Id, tagged.Id, nil)).Tags, []string{"red"})
}

func aMessageWaits() {
	r := listen()
	owner := app(models.ApplicationIn{})
	endpoint(owner, models.EndpointIn{Url: r.url})
	at := time.Now().UTC().Truncate(time.Second).Add(5 * time.Minute)
	waiting := message(owner, models.MessageIn{DeliverAt: &at})
	equal(waiting.DeliverAt.Equal(at), true)
	equal(must(sdk.Message.Get(ctx, owner.Id, waiting.Id, nil)).DeliverAt.Equal(at), true)
	now := message(owner, models.MessageIn{})
	equal(r.ids(1), []string{now.Id})
	attempts(owner, now, 1, svix.MessageAttemptListByMsgOptions{})
	equal(len(must(sdk.MessageAttempt.ListByMsg(ctx, owner.Id, waiting.Id, nil)).Data), 0)
	equal(len(r.arrived), 0)
}

func payloadsAreExpunged() {
	r := listen()
	owner := app(models.ApplicationIn{})
	target := endpoint(owner, models.EndpointIn{Url: r.url})
	sent := []*models.MessageOut{}
	for _, n := range []string{"0", "1", "2"} {
		in := models.MessageIn{Payload: map[string]any{"n": n}, PayloadRetentionPeriod: ptr(int64(5))}
		sent = append(sent, message(owner, in))
	}
	r.ids(3)
	payloads := func(want ...map[string]any) {
		equal(each(sent, func(one *models.MessageOut) map[string]any {
			return must(sdk.Message.Get(ctx, owner.Id, one.Id, &svix.MessageGetOptions{WithContent: ptr(true)})).Payload
		}), want)
	}
	gone, one, two := map[string]any{"expired": true}, map[string]any{"n": "1"}, map[string]any{"n": "2"}
	payloads(map[string]any{"n": "0"}, one, two)
	check(sdk.Message.ExpungeContent(ctx, owner.Id, sent[0].Id))
	payloads(gone, one, two)
	refused(400, "missing_payload", failure(sdk.MessageAttempt.Resend(ctx, owner.Id, sent[0].Id, target.Id, nil)))
	refused(404, "not_found", sdk.Message.ExpungeContent(ctx, owner.Id, unknownMessage))
	attempt := attempts(owner, sent[2], 1, svix.MessageAttemptListByMsgOptions{})[0]
	check(sdk.MessageAttempt.ExpungeContent(ctx, owner.Id, sent[2].Id, attempt.Id))
	equal(must(sdk.MessageAttempt.Get(ctx, owner.Id, sent[2].Id, attempt.Id, nil)).Response, "EXPUNGED")
	task := must(sdk.Message.ExpungeAllContents(ctx, owner.Id, nil))
	equal(task.Task, models.BACKGROUNDTASKTYPE_APPLICATION_PURGE_CONTENT)
	finished(task.Id)
	payloads(gone, gone, gone)
}

func attemptsAreListed() {
	r, other := listen(), listen()
	owner := app(models.ApplicationIn{})
	target := endpoint(owner, models.EndpointIn{Url: r.url})
	second := endpoint(owner, models.EndpointIn{Url: other.url, Channels: []string{"eu"}})
	r.answer(404, 500)
	failing := message(owner, models.MessageIn{Tags: []string{"red"}})
	r.ids(3)
	attempts(owner, failing, 3, svix.MessageAttemptListByMsgOptions{})
	eu := message(owner, models.MessageIn{EventType: "b", Channels: []string{"eu"}})
	r.ids(1)
	other.next()
	attempts(owner, eu, 2, svix.MessageAttemptListByMsgOptions{})
	list := func(o svix.MessageAttemptListByEndpointOptions) []models.MessageAttemptOut {
		return must(sdk.MessageAttempt.ListByEndpoint(ctx, owner.Id, target.Id, &o)).Data
	}
	every, ago := list(svix.MessageAttemptListByEndpointOptions{}), time.Now().Add(-time.Hour)
	for _, asked := range []struct {
		o    svix.MessageAttemptListByEndpointOptions
		want []int16
	}{
		{svix.MessageAttemptListByEndpointOptions{}, []int16{200, 200, 500, 404}},
		{svix.MessageAttemptListByEndpointOptions{Status: ptr(models.MESSAGESTATUS_FAIL)}, []int16{500, 404}},
		{svix.MessageAttemptListByEndpointOptions{Status: ptr(models.MESSAGESTATUS_SUCCESS)}, []int16{200, 200}},
		{svix.MessageAttemptListByEndpointOptions{StatusCodeClass: ptr(models.STATUSCODECLASS_CODE4XX)}, []int16{404}},
		{svix.MessageAttemptListByEndpointOptions{EventTypes: &[]string{"a"}}, []int16{200, 500, 404}},
		{svix.MessageAttemptListByEndpointOptions{Channel: ptr("eu")}, []int16{200}},
		{svix.MessageAttemptListByEndpointOptions{Tag: ptr("red")}, []int16{200, 500, 404}},
		{svix.MessageAttemptListByEndpointOptions{Before: &ago}, []int16{}},
		{svix.MessageAttemptListByEndpointOptions{After: &ago, Limit: ptr(uint64(2))}, []int16{500, 404}},
		{svix.MessageAttemptListByEndpointOptions{Iterator: &every[2].Id}, []int16{404}},
	} {
		equal(codes(list(asked.o)), asked.want)
	}
	withMsg := list(svix.MessageAttemptListByEndpointOptions{WithMsg: ptr(true)})
	equal([]string{withMsg[0].Msg.Id, withMsg[1].Msg.Id}, []string{eu.Id, failing.Id})
	bare := attempts(owner, failing, 3, svix.MessageAttemptListByMsgOptions{WithContent: ptr(false)})
	equal(bare[0].Response, "{}")
	ofOne := attempts(owner, eu, 1, svix.MessageAttemptListByMsgOptions{EndpointId: &second.Id})
	equal([]string{ofOne[0].EndpointId, ofOne[0].Url}, []string{second.Id, other.url})
	since := svix.EndpointGetStatsOptions{Since: ptr(time.Now().AddDate(0, 0, -1)), Until: ptr(time.Now())}
	must(sdk.Endpoint.GetStats(ctx, owner.Id, target.Id, &since))
}

func attemptedMessagesAreListed() {
	r := listen()
	owner := app(models.ApplicationIn{})
	target := endpoint(owner, models.EndpointIn{Url: r.url})
	payload := map[string]any{"n": "1"}
	good := message(owner, models.MessageIn{Channels: []string{"eu"}, Tags: []string{"red"}, Payload: payload})
	r.ids(1)
	attempts(owner, good, 1, svix.MessageAttemptListByMsgOptions{})
	r.answer(500, 500, 500, 500)
	bad := message(owner, models.MessageIn{EventType: "b"})
	r.ids(4)
	attempts(owner, bad, 4, svix.MessageAttemptListByMsgOptions{})
	list := func(o svix.MessageAttemptListAttemptedMessagesOptions) []models.EndpointMessageOut {
		return must(sdk.MessageAttempt.ListAttemptedMessages(ctx, owner.Id, target.Id, &o)).Data
	}
	both := list(svix.MessageAttemptListAttemptedMessagesOptions{WithContent: ptr(true)})
	equal([]any{both[0].Id, both[0].Status, both[0].StatusText}, []any{bad.Id, models.MESSAGESTATUS_FAIL, models.MESSAGESTATUSTEXT_FAIL})
	equal([]any{both[1].Id, both[1].Status, both[1].Payload}, []any{good.Id, models.MESSAGESTATUS_SUCCESS, payload})
	for _, asked := range []struct {
		o    svix.MessageAttemptListAttemptedMessagesOptions
		want []string
	}{
		{svix.MessageAttemptListAttemptedMessagesOptions{Status: ptr(models.MESSAGESTATUS_SUCCESS)}, []string{good.Id}},
		{svix.MessageAttemptListAttemptedMessagesOptions{Status: ptr(models.MESSAGESTATUS_FAIL)}, []string{bad.Id}},
		{svix.MessageAttemptListAttemptedMessagesOptions{Status: ptr(models.MESSAGESTATUS_SENDING)}, []string{}},
		{svix.MessageAttemptListAttemptedMessagesOptions{Channel: ptr("eu")}, []string{good.Id}},
		{svix.MessageAttemptListAttemptedMessagesOptions{Tag: ptr("red")}, []string{good.Id}},
		{svix.MessageAttemptListAttemptedMessagesOptions{EventTypes: &[]string{"b"}}, []string{bad.Id}},
		{svix.MessageAttemptListAttemptedMessagesOptions{Limit: ptr(uint64(1))}, []string{bad.Id}},
		{svix.MessageAttemptListAttemptedMessagesOptions{Iterator: &bad.Id}, []string{good.Id}},
	} {
		equal(each(list(asked.o), func(one models.EndpointMessageOut) string { return one.Id }), asked.want)
	}
	second := endpoint(owner, models.EndpointIn{Url: r.url + "second"})
	must(sdk.MessageAttempt.Resend(ctx, owner.Id, good.Id, second.Id, nil))
	r.next()
	attempts(owner, good, 2, svix.MessageAttemptListByMsgOptions{})
	places := must(sdk.MessageAttempt.ListAttemptedDestinations(ctx, owner.Id, good.Id, nil)).Data
	equal(each(places, func(one models.MessageEndpointOut) string { return one.Url }), []string{r.url, r.url + "second"})
	equal([]string{places[0].Id, places[1].Id}, []string{target.Id, second.Id})
	equal(places[1].Status, models.MESSAGESTATUS_SUCCESS)
}

func whatFailedIsRecovered() {
	r := listen()
	owner := app(models.ApplicationIn{})
	target := endpoint(owner, models.EndpointIn{Url: r.url})
	r.answer(500, 500, 500, 500, 500, 500, 500, 500)
	first, second := message(owner, models.MessageIn{}), message(owner, models.MessageIn{EventType: "b"})
	r.ids(8)
	for _, one := range []*models.MessageOut{first, second} {
		attempts(owner, one, 4, svix.MessageAttemptListByMsgOptions{})
	}
	since, secret := first.Timestamp.Add(-time.Minute), secretOf(owner, target.Id)
	recovering := must(sdk.Endpoint.Recover(ctx, owner.Id, target.Id, models.RecoverIn{Since: since}, nil))
	equal(recovering.Task, models.BACKGROUNDTASKTYPE_ENDPOINT_RECOVER)
	one, two := r.next(), r.next()
	one.verifies(secret)
	two.verifies(secret)
	found := sorted(one.headers.Get("webhook-id"), two.headers.Get("webhook-id"))
	equal(found, sorted(first.Id, second.Id))
	equal(finished(recovering.Id).Task, recovering.Task)
	resent := attempts(owner, first, 5, svix.MessageAttemptListByMsgOptions{})[0]
	equal(resent.TriggerType, models.MESSAGEATTEMPTTRIGGERTYPE_MANUAL)

	late := endpoint(owner, models.EndpointIn{Url: r.url + "late"})
	missing := must(sdk.Endpoint.ReplayMissing(ctx, owner.Id, late.Id, models.ReplayIn{Since: since}, nil))
	equal(missing.Task, models.BACKGROUNDTASKTYPE_ENDPOINT_REPLAY)
	equal(r.ids(2), sorted(first.Id, second.Id))
	finished(missing.Id)
	// What was received counts as sent when its attempt is in the log.
	attempts(owner, second, 6, svix.MessageAttemptListByMsgOptions{})
	in := models.BulkReplayIn{Since: since, EventTypes: []string{"b"}}
	bulk := must(sdk.Endpoint.BulkReplay(ctx, owner.Id, late.Id, in, nil))
	equal(bulk.Task, models.BACKGROUNDTASKTYPE_ENDPOINT_BULK_REPLAY)
	equal(r.ids(1), []string{second.Id})
	finished(bulk.Id)
	equal(len(r.arrived), 0)
	only := svix.BackgroundTaskListOptions{Task: ptr(models.BACKGROUNDTASKTYPE_ENDPOINT_RECOVER)}
	listed := must(sdk.BackgroundTask.List(ctx, &only)).Data
	equal(len(listed), 1)
	equal(listed[0].Status, models.BACKGROUNDTASKSTATUS_FINISHED)
	refused(404, "not_found", failure(sdk.BackgroundTask.Get(ctx, "qtask_000000000000000000000000000")))
	early := models.RecoverIn{Since: since.AddDate(0, 0, -30)}
	invalid(failure(sdk.Endpoint.Recover(ctx, owner.Id, target.Id, early, nil)))
}

func usageIsCounted() {
	r := listen()
	owner := app(models.ApplicationIn{Uid: ptr("busy")})
	endpoint(owner, models.EndpointIn{Url: r.url})
	message(owner, models.MessageIn{})
	r.ids(1)
	now := time.Now()
	in := models.AppUsageStatsIn{Since: now.AddDate(0, 0, -1), Until: now, AppIds: []string{"busy", "nobody"}}
	task := must(sdk.Statistics.AggregateAppStats(ctx, in, nil))
	equal(task.Task, models.BACKGROUNDTASKTYPE_APPLICATION_STATS)
	equal(task.UnresolvedAppIds, []string{"nobody"})
	finished(task.Id)
	types := must(sdk.Statistics.AggregateEventTypes(ctx))
	equal(types.Task, models.BACKGROUNDTASKTYPE_EVENT_TYPE_AGGREGATE)
	finished(types.Id)
}
