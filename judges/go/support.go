// What the cases share: a client, a receiver, waiting with a deadline, and how the SDK says no.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"sort"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	svix "github.com/svix/svix-webhooks/go"
	"github.com/svix/svix-webhooks/go/models"
)

const deadline = 30 * time.Second

var (
	ctx = context.Background()
	sdk *svix.Svix
)

func client(token string) *svix.Svix {
	return must(svix.New(token, &svix.SvixOptions{ServerUrl: must(url.Parse(os.Getenv("POSTRIDER_URL")))}))
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func equal(got, want any) {
	if !reflect.DeepEqual(got, want) {
		panic(fmt.Sprintf("got %v, want %v", got, want))
	}
}

func that(holds bool, what string) {
	if !holds {
		panic("not so: " + what)
	}
}

func ptr[T any](value T) *T { return &value }

// each takes one thing of every element.
func each[T, U any](from []T, of func(T) U) []U {
	found := []U{}
	for _, one := range from {
		found = append(found, of(one))
	}
	return found
}

func sorted(from ...string) []string {
	found := append([]string{}, from...)
	sort.Strings(found)
	return found
}

// Ids, by which lists are ordered, tell instants apart that are 4 ms from each other.
func apart() {
	time.Sleep(5 * time.Millisecond)
}

func app(in models.ApplicationIn) *models.ApplicationOut {
	apart()
	in.Name = "from Go"
	return must(sdk.Application.Create(ctx, in, nil))
}

func endpoint(app *models.ApplicationOut, in models.EndpointIn) *models.EndpointOut {
	apart()
	return must(sdk.Endpoint.Create(ctx, app.Id, in, nil))
}

func message(app *models.ApplicationOut, in models.MessageIn) *models.MessageOut {
	apart()
	if in.EventType == "" {
		in.EventType = "a"
	}
	if in.Payload == nil {
		in.Payload = map[string]any{}
	}
	return must(sdk.Message.Create(ctx, app.Id, in, nil))
}

func secretOf(app *models.ApplicationOut, endpoint string) string {
	return must(sdk.Endpoint.GetSecret(ctx, app.Id, endpoint)).Key
}

type delivery struct {
	headers http.Header
	body    []byte
}

// receiver is a webhook receiver on a free port. What arrives is taken from it with next.
type receiver struct {
	url      string
	arrived  chan delivery
	lock     sync.Mutex
	statuses []int
}

func listen() *receiver {
	at := must(net.Listen("tcp", "127.0.0.1:0"))
	r := &receiver{url: fmt.Sprintf("http://%s/", at.Addr()), arrived: make(chan delivery, 1000)}
	go http.Serve(at, r)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body := must(io.ReadAll(request.Body))
	// Taken before the case hears of the request: what it then says with answer() is for the next one.
	status := r.status()
	r.arrived <- delivery{request.Header, body}
	w.WriteHeader(status)
}

func (r *receiver) status() int {
	r.lock.Lock()
	defer r.lock.Unlock()
	if len(r.statuses) == 0 {
		return http.StatusOK
	}
	first := r.statuses[0]
	r.statuses = r.statuses[1:]
	return first
}

// answer says what the next requests get.
func (r *receiver) answer(statuses ...int) {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.statuses = append(r.statuses, statuses...)
}

func (r *receiver) next() delivery {
	select {
	case arrived := <-r.arrived:
		return arrived
	case <-time.After(deadline):
		panic("waited in vain for a delivery")
	}
}

// ids are those of the next count deliveries, sorted.
func (r *receiver) ids(count int) []string {
	found := []string{}
	for len(found) < count {
		found = append(found, r.next().headers.Get("webhook-id"))
	}
	return sorted(found...)
}

// verifies says that both published verifiers take it, and refuse it when one byte is added.
func (d delivery) verifies(secret string) {
	check(must(svix.NewWebhook(secret)).Verify(d.body, d.headers))
	check(must(standardwebhooks.NewWebhook(secret)).Verify(d.body, d.headers))
	that(must(svix.NewWebhook(secret)).Verify(append(d.body, ' '), d.headers) != nil, "a changed body is refused")
}

// eventually looks again and again until it finds.
func eventually(what string, look func() bool) {
	for end := time.Now().Add(deadline); !look(); time.Sleep(20 * time.Millisecond) {
		that(time.Now().Before(end), "in time: "+what)
	}
}

// attempts are those of a message, as soon as there are count.
func attempts(app *models.ApplicationOut, message *models.MessageOut, count int, o svix.MessageAttemptListByMsgOptions) []models.MessageAttemptOut {
	found := []models.MessageAttemptOut{}
	eventually("attempts", func() bool {
		found = must(sdk.MessageAttempt.ListByMsg(ctx, app.Id, message.Id, &o)).Data
		return len(found) >= count
	})
	return found
}

func codes(found []models.MessageAttemptOut) []int16 {
	return each(found, func(one models.MessageAttemptOut) int16 { return one.ResponseStatusCode })
}

// finished waits for the end of a background task.
func finished(id string) *models.BackgroundTaskOut {
	var found *models.BackgroundTaskOut
	eventually("the end of a task", func() bool {
		found = must(sdk.BackgroundTask.Get(ctx, id))
		that(found.Status != models.BACKGROUNDTASKSTATUS_FAILED, "the task did not fail")
		return found.Status == models.BACKGROUNDTASKSTATUS_FINISHED
	})
	return found
}

// refused says that the call is answered with this status and code, and that the SDK says so with its own error.
func refused(status int, code string, err error) string {
	var body struct{ Code, Detail string }
	check(json.Unmarshal(answer(status, err), &body))
	equal(body.Code, code)
	that(body.Detail != "", "an error has a detail")
	return body.Detail
}

// invalid says that the call is answered with 422 and what is wrong where.
func invalid(err error) []string {
	var body struct {
		Detail []struct {
			Loc       []string
			Msg, Type string
		}
	}
	check(json.Unmarshal(answer(http.StatusUnprocessableEntity, err), &body))
	that(body.Detail[0].Msg != "" && body.Detail[0].Type != "", "a mistake is explained")
	return body.Detail[0].Loc
}

func answer(status int, err error) []byte {
	var raised *svix.Error
	that(errors.As(err, &raised), fmt.Sprintf("an error of the SDK: %v", err))
	equal(raised.Status(), status)
	return raised.Body()
}

// failure is the error of a call that also returns something.
func failure[T any](_ T, err error) error { return err }
