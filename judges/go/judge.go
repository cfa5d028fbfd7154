// The published Go SDK against a server: only the server's URL is not the SDK's own.
//
//	judge --list    the names of the cases
//	judge CASE      runs one; `passed: CASE` is printed if all that it claims is so
//
// The server's URL is in POSTRIDER_URL, a token for an empty environment in POSTRIDER_TOKEN. A claim that does not hold
// panics, so that the trace shows which.
package main

import (
	"fmt"
	"os"
	"sort"
)

var cases = map[string]func(){
	"a_failure_is_retried_and_logged_and_a_resend_is_possible": aFailureIsRetriedAndLogged,
	"a_message_waits_until_it_is_to_be_delivered":              aMessageWaits,
	"a_portal_token_reaches_its_application_only":              aPortalToken,
	"a_raw_payload_arrives_as_it_is":                           aRawPayloadArrives,
	"a_secret_is_rotated_and_both_sign":                        aSecretIsRotated,
	"an_example_is_sent":                                       anExampleIsSent,
	"applications_are_listed_in_both_directions":               applicationsAreListed,
	"applications_are_managed":                                 applicationsAreManaged,
	"attempted_messages_and_destinations_are_listed":           attemptedMessagesAreListed,
	"attempts_are_listed_by_every_filter":                      attemptsAreListed,
	"endpoints_are_managed":                                    endpointsAreManaged,
	"environments_are_exported_and_imported":                   environmentsAreExported,
	"errors_are_the_sdks_own":                                  errorsAreTheSdksOwn,
	"event_types_and_channels_filter":                          eventTypesAndChannelsFilter,
	"event_types_are_managed":                                  eventTypesAreManaged,
	"event_types_come_from_an_openapi_document":                eventTypesComeFromOpenapi,
	"headers_are_managed_and_sent":                             headersAreManaged,
	"health_is_told":                                           healthIsTold,
	"messages_are_listed_by_every_filter":                      messagesAreListed,
	"operational_webhooks_are_managed_and_arrive":              operationalWebhooksArrive,
	"payloads_are_expunged":                                    payloadsAreExpunged,
	"the_same_idempotency_key_is_one_message":                  theSameIdempotencyKey,
	"usage_is_counted":                                         usageIsCounted,
	"what_failed_is_recovered":                                 whatFailedIsRecovered,
	"what_is_absent_says_so":                                   whatIsAbsentSaysSo,
	"what_is_sent_arrives_and_verifies":                        whatIsSentArrives,
}

func main() {
	name := os.Args[1]
	if name == "--list" {
		names := []string{}
		for name := range cases {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			fmt.Println(name)
		}
		return
	}
	sdk = client(os.Getenv("POSTRIDER_TOKEN"))
	cases[name]()
	fmt.Println("passed:", name)
}
