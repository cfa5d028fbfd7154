//! The suite that every engine must pass unchanged: what the comments of the traits promise, as tests.
//!
//! An engine implements [`Harness`] in its tests and writes `postrider_store_conformance::conformance_suite!(MyHarness);`. Each case
//! becomes a test with a name of its own, on a store of its own. The cases know nothing of the engine but the traits.
//!
//! To add a case, write an `async fn` in the file of its area and name it in `conformance_cases` below. A case that is
//! not named there is dead code, which the compiler reports.

#![expect(clippy::unwrap_used, reason = "a case fails by panicking")]

mod accept;
mod api_keys;
mod applications;
mod attempts;
mod due;
mod durability;
mod endpoints;
mod environments;
mod event_types;
mod expunge;
mod idempotency;
mod lists;
mod messages;
mod model;
mod outbox;
mod paging;
mod recorder;
mod replay;
mod resend;
mod retention;
mod routes;
mod settle;
mod streams;
mod tasks;
mod tokens;
mod wakes;
mod world;

use std::sync::Arc;

use async_trait::async_trait;

use postrider_store::Store;

/// A database of an engine, for one test.
#[async_trait]
pub trait Harness: Sized + Send + Sync + 'static {
    /// A new database with nothing in it, and a store on it.
    async fn fresh() -> Self;
    /// The store that is open.
    fn store(&self) -> Arc<dyn Store>;
    /// Closes the store and opens another one on the same database.
    async fn reopen(&mut self);
    /// Closes the store and opens another one on the same database, in which an application's callers may ask for so many
    /// attempts in a day.
    async fn reopen_where_may_be_asked_for(&mut self, per_day: u64);
    /// Closes the store, makes the database look as if the oldest version that can still be migrated had written it, and
    /// opens another store on it. An engine with one version has nothing to do.
    async fn age(&mut self) {}
}

/// Makes a test of every case, for the engine behind a [`Harness`](crate::Harness). The crate that calls it
/// needs `tokio` with the features `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! conformance_suite {
    ($harness:ty) => {
        type HarnessUnderTest = $harness;
        $crate::conformance_cases!({ $crate::conformance_tests });

        #[test]
        fn the_work_table_behaves_like_its_model() {
            $crate::the_work_table_behaves_like_its_model::<HarnessUnderTest>();
        }

        #[test]
        fn filtered_lists_show_what_the_filter_lets_through() {
            $crate::filtered_lists_show_what_the_filter_lets_through::<HarnessUnderTest>();
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ([] $($area:ident { $($case:ident,)* })*) => {
        $(mod $area {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    $crate::run::$area::$case::<super::HarnessUnderTest>().await;
                }
            )*
        })*
    };
}

macro_rules! conformance_runners {
    ([] $($area:ident { $($case:ident,)* })*) => {
        /// The cases, to be called by the tests that [`conformance_suite`](crate::conformance_suite) makes.
        #[doc(hidden)]
        pub mod run {
            $(pub mod $area {
                $(
                    pub async fn $case<H: super::super::Harness>() {
                        let mut world = super::super::world::World::<H>::fresh().await;
                        Box::pin(super::super::$area::$case(&mut world)).await;
                    }
                )*
            })*
        }
    };
}

/// Compares the work table with a model of it, over random histories; shows the shortest history that differs.
pub fn the_work_table_behaves_like_its_model<H: Harness>() {
    model::compare::<H>();
}

/// Compares filtered lists with a model of them, over random histories; shows the shortest history that differs.
pub fn filtered_lists_show_what_the_filter_lets_through<H: Harness>() {
    lists::compare::<H>();
}

/// All cases by area: the one list. Calls the macro in braces with what follows, in brackets, and the list.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ({ $($callback:tt)* } $($arguments:tt)*) => {
        $($callback)*! {
            [$($arguments)*]
            applications {
                an_application_reads_back_as_it_was_written,
                an_application_is_found_by_its_uid,
                a_list_may_leave_out_applications_that_nobody_listens_to,
                a_taken_uid_is_a_conflict_on_every_way_to_write_it,
                environments_do_not_see_each_other,
                a_patch_changes_only_what_it_names,
                an_update_of_what_is_not_there_is_not_found,
                an_upsert_changes_what_is_there_and_adds_what_is_not,
                a_deleted_application_and_all_of_it_are_found_no_more,
                a_uid_is_free_after_its_application_is_deleted,
                handles_are_not_reused_after_a_delete,
            }
            endpoints {
                an_endpoint_reads_back_as_it_was_written,
                an_endpoint_is_found_by_its_uid_in_its_application_only,
                a_taken_uid_is_a_conflict_on_every_way_to_write_it,
                an_endpoint_of_an_application_that_is_gone_is_not_found,
                a_patch_changes_only_what_it_names,
                an_upsert_keeps_secret_and_headers_or_adds_an_endpoint,
                a_deleted_endpoint_is_found_no_more_and_frees_its_uid,
                rotation_keeps_the_former_key_until_its_grace_ends,
                the_eleventh_quick_rotation_is_refused_and_changes_nothing,
                headers_are_replaced_and_merged,
                a_patch_can_set_the_authorization_of_an_endpoint,
                enabling_an_endpoint_forgets_that_it_was_failing,
                observers_are_told_of_every_change,
            }
            event_types {
                an_event_type_reads_back_with_its_schemas_byte_for_byte,
                an_active_name_is_a_conflict_and_an_archived_one_is_revived,
                environments_do_not_see_each_other,
                a_list_is_ordered_bytewise_and_filtered,
                missing_names_are_told_in_the_order_given,
                names_behind_flags_are_missing_to_those_without,
                all_of_them_are_read_at_once_unless_they_are_too_large,
                a_patch_changes_only_what_it_names,
                an_upsert_changes_what_is_there_and_adds_what_is_not,
                deleting_archives_again_and_again_and_expunging_removes,
                a_name_of_an_illegal_form_names_nothing,
            }
            environments {
                an_environment_has_the_default_settings_until_they_are_changed,
                settings_belong_to_their_environment_and_survive_a_restart,
                rules_reach_the_routes_and_make_them_newer,
                event_types_make_routes_newer_only_while_there_are_rules,
                a_message_of_routes_before_a_rule_is_refused,
                an_import_adds_changes_and_leaves_alone,
                an_import_archives_the_others_if_asked,
                an_import_is_carried_out_once,
                a_large_import_is_brought_in_whole_or_not_at_all,
            }
            messages {
                a_message_reads_back_as_it_was_accepted,
                a_payload_comes_back_byte_for_byte,
                another_applications_messages_are_not_found,
                a_list_shows_only_what_its_filter_asks_for,
                a_filtered_page_is_full_if_enough_messages_match,
                a_list_leaves_payloads_out_unless_asked,
            }
            attempts {
                an_attempt_reads_back_as_it_was_settled,
                of_attempts_that_began_together_the_latest_has_the_greatest_id,
                lists_by_endpoint_and_by_message_show_theirs_only,
                a_list_shows_only_what_its_filter_asks_for,
                a_filter_looks_at_the_message,
                a_list_leaves_answers_out_unless_asked,
                an_attempt_is_found_only_under_its_message_and_application,
                stats_count_a_half_open_range,
                stats_of_many_attempts_are_exact_though_some_come_late,
                the_url_is_the_one_that_was_used,
                attempts_outlive_their_endpoint,
            }
            expunge {
                an_erased_payload_is_gone_and_its_message_stays,
                payloads_are_erased_by_id_and_event_id,
                an_erased_answer_is_gone_and_its_attempt_stays,
            }
            streams {
                a_stream_is_read_slice_by_slice_to_its_end,
                what_comes_late_is_not_missed,
                a_reader_gets_what_came_while_the_clock_was_wrong,
                a_named_reader_gets_what_came_while_the_clock_was_wrong,
                a_stream_shows_what_passes_all_filters,
                who_begins_where_there_is_nothing_gets_what_comes,
                an_endpoints_stream_begins_where_the_endpoint_does,
                a_reader_is_where_it_said,
            }
            tokens {
                the_secret_is_the_first_one_offered,
                tokens_issued_earlier_are_refused_from_then_on,
                only_tokens_of_the_named_sessions_are_ended,
                tokens_are_good_as_long_as_there_is_their_application,
                ending_tokens_is_carried_out_once,
                ending_tokens_again_and_again_refuses_what_each_of_them_said,
                so_many_sessions_are_ended_and_no_more_until_all_are,
            }
            paging {
                pages_of_applications_visit_each_once,
                pages_of_endpoints_visit_each_once,
                pages_of_event_types_visit_each_once,
                pages_of_messages_visit_each_once,
                pages_of_attempts_visit_each_once,
                no_limit_is_too_large_and_none_too_small,
            }
            routes {
                routes_hold_all_that_the_sender_needs,
                routes_leave_out_deleted_endpoints_and_keep_disabled_ones,
                routes_are_found_by_id_and_uid_in_their_environment_only,
                a_change_that_they_depend_on_makes_routes_newer_and_no_other,
                a_target_stays_readable_after_its_endpoint_or_application_is_deleted,
                an_endpoint_that_never_existed_has_no_target,
            }
            accept {
                an_accepted_message_has_its_deliveries_and_its_key,
                a_message_that_goes_nowhere_is_stored,
                routes_that_changed_are_refused,
                routes_that_were_read_after_a_message_came_need_not_be_the_newest_but_by_the_newest_rules,
                the_routes_of_a_deleted_application_are_refused,
                an_event_id_is_taken_once_within_and_across_batches,
                an_event_id_belongs_to_its_application,
                a_refused_message_does_not_hurt_its_batch,
                racing_batches_accept_each_message_once,
                an_empty_batch_is_nothing,
                a_delivery_that_is_put_off_is_in_the_index_of_wakes_and_not_fresh,
                a_manual_success_ends_a_delivery_that_is_put_off,
            }
            replay {
                one_key_in_one_batch_accepts_one_message,
                one_key_in_many_batches_accepts_one_message,
                a_replay_comes_before_a_conflict_of_event_ids,
                forgetting_keeps_the_keys_that_are_young_enough,
                the_keys_of_very_many_messages_lead_to_them,
                a_refused_message_leaves_no_key,
                what_was_accepted_under_a_key_is_found_by_it,
                an_expired_key_accepts_anew_and_is_renewed,
            }
            due {
                deliveries_come_by_due_instant_and_not_before_it,
                held_deliveries_are_left_out_and_do_not_count,
                reading_goes_on_after_a_delivery,
                limits_by_number_and_bytes_are_kept,
                one_endpoints_deliveries_do_not_show_at_another,
                a_delivery_whose_payload_is_gone_has_no_message,
                canceling_removes_in_slices,
                a_backlog_is_counted_up_to_the_limit,
            }
            settle {
                success_ends_a_delivery_and_logs_the_attempt,
                waiting_moves_a_delivery_and_counts_the_attempt,
                exhausted_and_canceled_end_a_delivery,
                a_delivery_can_be_canceled_without_an_attempt,
                settling_again_does_no_harm,
                a_delivery_that_is_gone_is_logged_but_not_scheduled,
                the_delivery_of_a_deleted_endpoint_is_logged_but_not_scheduled,
                health_remembers_the_first_failure_until_a_success,
                only_what_is_stored_disables,
                what_a_receiver_answered_that_the_endpoint_has_no_more_does_not_count,
                what_a_receiver_asked_that_the_endpoint_has_no_more_holds_nothing_back,
                another_url_begins_anew,
                disabling_is_seen_by_routes_and_observers,
                a_batch_settles_many_endpoints_at_once,
                a_manual_success_ends_the_series_that_was_never_attempted,
                a_manual_success_ends_the_series_that_waits,
                a_manual_success_ends_a_series_of_quick_retries,
                a_manual_failure_leaves_the_series_alone,
                a_manual_success_leaves_other_messages_alone,
            }
            wakes {
                a_waiting_delivery_is_in_the_index,
                the_index_keeps_the_earliest_instant,
                taking_is_by_instant_and_limit_and_removes,
                parking_sets_the_index_to_what_is_due_later,
                parking_leaves_what_was_added_since_the_caller_looked,
                parking_one_endpoint_leaves_others_alone,
                waking_later_keeps_the_earlier_instant,
                rebuilding_finds_fresh_and_waiting_deliveries,
                an_endpoint_on_hold_is_not_due_before_the_end_of_it,
                an_endpoint_on_hold_is_looked_after_at_the_end_of_it_though_what_it_has_is_due_later,
                what_a_hand_adds_is_in_the_index,
                what_a_task_adds_is_in_the_index,
                what_is_scheduled_is_in_the_index,
                a_change_of_what_a_hold_was_learned_from_lifts_it,
                retries_that_were_put_off_are_due_when_the_hold_is_lifted,
                whoever_changes_an_endpoint_has_what_it_has_pending_looked_at,
                an_endpoint_that_its_failures_disable_is_looked_at_and_not_held_back,
                rebuilding_an_empty_store_finds_nothing,
                what_is_due_later_than_any_wait_is_due_now_except_what_was_scheduled,
                what_a_clock_dated_that_was_ahead_waits_from_now_when_it_was_set_right,
            }
            resend {
                a_resend_adds_a_manual_delivery_and_tells_observers,
                a_resend_beside_a_pending_delivery_is_one_more,
                a_disabled_endpoint_gets_nothing,
                what_is_not_there_is_not_found,
                a_payload_that_is_gone_cannot_be_sent_again,
                a_resend_is_carried_out_once,
                a_message_is_sent_to_an_endpoint_so_often_and_no_more,
                so_many_attempts_are_asked_for_in_a_day_and_no_more,
                a_task_that_would_send_more_than_a_days_worth_goes_on_when_it_may,
                whoever_asks_again_and_again_leaves_something_to_a_task,
                a_task_that_takes_all_it_may_leaves_something_to_whoever_asks_for_one_message,
                each_task_that_waits_gets_its_turn,
            }
            idempotency {
                an_application_is_created_once,
                an_endpoint_is_created_once,
                an_event_type_is_created_once,
                a_rotation_is_carried_out_once,
                a_refused_write_leaves_no_key,
                an_expired_key_is_carried_out_anew,
                forgetting_removes_the_old_keys_in_slices_and_keeps_the_others,
                what_a_wrong_clock_dated_ahead_is_forgotten_with_what_came_after_it,
                a_key_belongs_to_the_application_that_it_was_used_at,
                a_key_belongs_to_the_endpoint_and_the_message_that_it_was_used_at,
                answers_take_no_more_room_than_their_owner_has,
                an_answer_that_is_too_old_or_forgotten_takes_no_room,
                an_answer_for_which_there_is_no_room_leaves_nothing,
                an_answer_stays_when_its_key_is_used_where_something_else_has_its_name,
                answers_that_are_not_old_stay_when_the_clock_went_back_meanwhile,
                racing_writes_under_one_key_are_carried_out_once,
            }
            tasks {
                a_task_is_created_once_and_shown_to_its_environment,
                a_task_is_of_the_application_that_it_is_about,
                lists_of_tasks_are_filtered_and_paged,
                tasks_that_ended_stay_as_they_are_until_they_are_forgotten,
                one_task_at_a_time_sends_messages_to_an_endpoint_again,
                tasks_that_run_are_bounded_by_application_and_environment,
                tasks_of_applications_leave_places_to_others,
                tasks_that_run_are_named_for_every_application,
                of_tasks_that_ended_the_last_to_end_stay_of_each_application,
                recover_sends_each_failed_message_once_whatever_the_size_of_a_step,
                recover_of_a_time_without_failures_does_nothing,
                recover_has_a_limit,
                a_restart_goes_on_where_the_last_step_ended,
                racing_steps_do_their_work_once,
                a_task_ends_when_its_endpoint_is_disabled_or_gone,
                replay_adds_what_an_endpoint_wants_and_never_got,
                replay_adds_nothing_twice_that_a_clock_dated_ahead,
                replay_leaves_out_what_waits_because_somebody_asked_for_it,
                bulk_replay_sends_what_its_filter_lets_through,
                purging_erases_every_payload_that_was_there,
                usage_is_counted_by_application,
                messages_are_counted_by_event_type,
            }
            retention {
                payloads_go_at_their_time_in_slices_of_any_size,
                what_was_erased_before_does_not_count,
                a_large_payload_ends_a_slice,
                a_sweep_goes_on_after_a_restart,
                the_delivery_of_an_expired_payload_can_only_be_canceled,
                messages_go_with_their_attempts_in_slices_of_any_size,
                a_message_that_is_still_to_be_delivered_stays_until_it_was,
                a_message_that_is_sent_again_while_old_ones_go_stays,
                what_a_wrong_clock_dated_ahead_goes_with_what_came_after_it,
                what_belongs_to_a_deleted_application_is_erased_and_nothing_else,
                urls_go_when_no_attempt_names_them_also_those_of_living_endpoints,
                the_clock_is_as_it_was_noted_or_as_the_newest_message_says,
            }
            outbox {
                nothing_is_reported_if_nobody_is_told,
                changes_of_endpoints_are_reported_in_order,
                what_did_not_happen_is_not_reported,
                the_management_environment_does_not_report_itself,
                an_attempt_is_reported_once,
                a_disabled_endpoint_is_reported_once_with_the_time_of_its_first_failure,
                notices_survive_a_restart_until_they_are_removed,
                recipients_take_turns,
                a_change_takes_the_place_of_one_of_the_same_endpoint_that_waits,
                applications_of_a_recipient_take_turns,
                the_event_types_of_notices_are_there,
            }
            api_keys {
                a_key_reads_back_and_is_listed_by_id,
                a_hash_is_taken_once,
                a_revoked_key_is_gone,
                touching_notes_the_last_use_and_skips_what_is_gone,
            }
            durability {
                everything_survives_a_restart,
                replays_survive_a_restart,
                pending_deliveries_survive_a_restart,
                handles_survive_a_restart,
                a_closed_store_says_so,
                a_store_that_is_open_answers_a_ping,
            }
        }
    };
}

conformance_cases!({ conformance_runners });
