"""What happened: messages and attempts in lists, expunged, sent again by background tasks."""

from datetime import datetime, timedelta, timezone

import svix.api
import svix.models as m
from svix.api import (
    BackgroundTaskListOptions,
    EndpointGetStatsOptions,
    MessageAttemptListAttemptedDestinationsOptions,
    MessageAttemptListAttemptedMessagesOptions,
    MessageAttemptListByEndpointOptions,
    MessageCreateOptions,
    MessageGetOptions,
    MessageListOptions,
)
from svix.models import MessageStatus, StatusCodeClass

from support import SECOND, Case, Receiver, second_generation


class History(Case):
    def test_messages_are_listed_by_every_filter(self):
        app = self.app()
        plain = self.message(app, "a")
        eu = self.message(app, "b", channels=["eu"])
        tagged = self.message(app, "c", tags=["red"])

        def ids(**options):
            return [found.id for found in self.svix.message.list(app.id, MessageListOptions(**options)).data]

        self.assertEqual(ids(), [tagged.id, eu.id, plain.id])
        self.assertEqual(ids(event_types=["a", "b"]), [eu.id, plain.id])
        self.assertEqual(ids(channel="eu"), [eu.id])
        self.assertEqual(ids(tag="red"), [tagged.id])
        self.assertEqual(ids(before=tagged.timestamp), [eu.id, plain.id])
        self.assertEqual(ids(after=eu.timestamp), [tagged.id, eu.id])
        self.assertEqual(ids(after=eu.timestamp, before=tagged.timestamp), [eu.id])
        page = self.svix.message.list(app.id, MessageListOptions(limit=2))
        self.assertEqual(([found.id for found in page.data], page.done), ([tagged.id, eu.id], False))
        rest = self.svix.message.list(app.id, MessageListOptions(limit=2, iterator=page.iterator))
        self.assertEqual(([found.id for found in rest.data], rest.done), ([plain.id], True))
        back = self.svix.message.list(app.id, MessageListOptions(limit=2, iterator=rest.prev_iterator))
        self.assertEqual(([found.id for found in back.data], back.done), ([tagged.id, eu.id], True))
        self.assertEqual(self.svix.message.get(app.id, tagged.id).tags, ["red"])

    @second_generation
    def test_a_message_waits_until_it_is_to_be_delivered(self):
        app = self.app()
        self.endpoint(app)
        at = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(minutes=5)
        waiting = self.message(app, deliver_at=at)
        self.assertEqual(waiting.deliver_at, at)
        self.assertEqual(self.svix.message.get(app.id, waiting.id).deliver_at, at)
        now = self.message(app)
        self.assertEqual(self.receiver.ids(1), [now.id])
        self.attempts(app, now, 1)
        self.assertEqual(self.svix.message_attempt.list_by_msg(app.id, waiting.id).data, [])
        self.assertTrue(self.receiver.arrived.empty())

    def test_payloads_are_expunged(self):
        app = self.app()
        endpoint = self.endpoint(app)
        messages = [self.message(app, payload={"n": n}, payload_retention_period=5) for n in range(4)]
        self.receiver.ids(4)

        def payload(message):
            return self.svix.message.get(app.id, message.id, MessageGetOptions(with_content=True)).payload

        gone = {"expired": True}
        self.assertEqual([payload(message) for message in messages], [{"n": n} for n in range(4)])
        self.svix.message.expunge_content(app.id, messages[0].id)
        self.assertEqual([payload(message) for message in messages[:2]], [gone, {"n": 1}])
        resend = self.svix.message_attempt.resend
        self.refused(400, "missing_payload", resend, app.id, messages[0].id, endpoint.id)
        if SECOND:
            ids = [messages[1].id, "msg_000000000000000000000000000"]
            results = self.svix.message.bulk_expunge_content(app.id, m.BulkExpungeContentsIn(ids=ids)).results
            self.assertEqual(results, {ids[0]: m.BulkExpungeStatus.EXPUNGED, ids[1]: m.BulkExpungeStatus.NOT_FOUND})
            self.assertEqual(payload(messages[1]), gone)
        (attempt,) = self.attempts(app, messages[2], 1)
        self.svix.message_attempt.expunge_content(app.id, messages[2].id, attempt.id)
        self.assertEqual(self.svix.message_attempt.get(app.id, messages[2].id, attempt.id).response, "EXPUNGED")
        task = self.svix.message.expunge_all_contents(app.id)
        self.assertEqual(task.task, m.BackgroundTaskType.APPLICATION_PURGE_CONTENT)
        self.finished(task)
        self.assertEqual([payload(message) for message in messages], [gone] * 4)

    def test_attempts_are_listed_by_every_filter(self):
        app = self.app()
        endpoint = self.endpoint(app)
        other = Receiver()
        self.addCleanup(other.close)
        second = self.endpoint(app, url=other.url, channels=["eu"])
        self.receiver.statuses.extend([404, 500])
        failing = self.message(app, "a", tags=["red"])
        self.receiver.ids(3)
        self.attempts(app, failing, 3)
        eu = self.message(app, "b", channels=["eu"])
        self.receiver.ids(1)
        other.next()
        self.attempts(app, eu, 2)
        attempts = self.svix.message_attempt

        def codes(**options):
            found = attempts.list_by_endpoint(app.id, endpoint.id, MessageAttemptListByEndpointOptions(**options)).data
            return [one.response_status_code for one in found]

        self.assertEqual(codes(), [200, 200, 500, 404])
        self.assertEqual(codes(status=MessageStatus.FAIL), [500, 404])
        self.assertEqual(codes(status=MessageStatus.SUCCESS), [200, 200])
        self.assertEqual(codes(status_code_class=StatusCodeClass.CODE4XX), [404])
        self.assertEqual(codes(event_types=["a"]), [200, 500, 404])
        self.assertEqual(codes(channel="eu"), [200])
        self.assertEqual(codes(tag="red"), [200, 500, 404])
        self.assertEqual(codes(tag="red", status=MessageStatus.FAIL, limit=1), [500])
        every = attempts.list_by_endpoint(app.id, endpoint.id).data
        self.assertEqual(codes(before=every[1].timestamp), [500, 404])
        self.assertEqual(codes(after=every[1].timestamp), [200, 200])
        page = attempts.list_by_endpoint(app.id, endpoint.id, MessageAttemptListByEndpointOptions(limit=3))
        self.assertEqual(([one.id for one in page.data], page.done), ([one.id for one in every[:3]], False))
        self.assertEqual(codes(limit=3, iterator=page.iterator), [404])
        with_msg = attempts.list_by_endpoint(app.id, endpoint.id, MessageAttemptListByEndpointOptions(with_msg=True))
        self.assertEqual([one.msg.id for one in with_msg.data], [eu.id] + [failing.id] * 3)
        self.assertEqual([one.response for one in self.attempts(app, failing, 3, with_content=False)], ["{}"] * 3)

        of_one = self.attempts(app, eu, 1, endpoint_id=second.id)
        self.assertEqual([(one.endpoint_id, one.url) for one in of_one], [(second.id, other.url)])
        self.assertEqual(len(self.attempts(app, failing, 1, status_code_class=StatusCodeClass.CODE5XX)), 1)
        now = datetime.now(timezone.utc)
        stats = self.svix.endpoint.get_stats(
            app.id, endpoint.id, EndpointGetStatsOptions(since=now - timedelta(days=1), until=now)
        )
        self.assertEqual((stats.success, stats.fail), (2, 2))
        if SECOND:
            counted = self.svix.endpoint.get_attempt_stats(app.id, endpoint.id)
            self.assertEqual((counted.success, counted.fail, counted.canceled), (2, 2, 0))

    def test_attempted_messages_and_destinations_are_listed(self):
        app = self.app()
        endpoint = self.endpoint(app)
        good = self.message(app, "a", channels=["eu"], tags=["red"], payload={"n": 1})
        self.receiver.ids(1)
        self.attempts(app, good, 1)
        self.receiver.statuses.extend([500] * 4)
        bad = self.message(app, "b")
        self.receiver.ids(4)
        self.attempts(app, bad, 4)
        attempts = self.svix.message_attempt

        def listed(**options):
            options = MessageAttemptListAttemptedMessagesOptions(**options)
            return attempts.list_attempted_messages(app.id, endpoint.id, options)

        both = listed(with_content=True)
        self.assertEqual(
            [(one.id, one.status, one.payload, one.next_attempt) for one in both.data],
            [(bad.id, MessageStatus.FAIL, {}, None), (good.id, MessageStatus.SUCCESS, {"n": 1}, None)],
        )
        if SECOND:
            self.assertEqual([one.status_text.value for one in both.data], ["fail", "success"])
        for options, expected in (
            ({"status": MessageStatus.SUCCESS}, [good]),
            ({"status": MessageStatus.FAIL}, [bad]),
            ({"status": MessageStatus.SENDING}, []),
            ({"status": MessageStatus.PENDING}, []),
            ({"channel": "eu"}, [good]),
            ({"tag": "red"}, [good]),
            ({"event_types": ["b"]}, [bad]),
            ({"before": bad.timestamp}, [good]),
            ({"after": bad.timestamp}, [bad]),
        ):
            self.assertEqual([one.id for one in listed(**options).data], [one.id for one in expected], options)
        page = listed(limit=1)
        self.assertEqual((page.done, page.iterator), (False, bad.id))
        self.assertEqual([one.id for one in listed(limit=1, iterator=page.iterator).data], [good.id])

        second = self.endpoint(app, url=self.receiver.url + "second")
        attempts.resend(app.id, good.id, second.id)
        self.receiver.next()
        self.attempts(app, good, 2)
        places = attempts.list_attempted_destinations(app.id, good.id)
        self.assertEqual([(one.id, one.status) for one in places.data], [(endpoint.id, 0), (second.id, 0)])
        self.assertEqual([one.url for one in places.data], [self.receiver.url, self.receiver.url + "second"])
        options = MessageAttemptListAttemptedDestinationsOptions(limit=1)
        self.assertEqual(
            [one.id for one in attempts.list_attempted_destinations(app.id, good.id, options).data], [endpoint.id]
        )

    def test_what_failed_is_recovered(self):
        app = self.app()
        endpoint = self.endpoint(app)
        self.receiver.statuses.extend([500] * 8)
        failed = [self.message(app, "a"), self.message(app, "b")]
        self.receiver.ids(8)
        for message in failed:
            self.attempts(app, message, 4)
        since = failed[0].timestamp - timedelta(minutes=1)
        secret = self.svix.endpoint.get_secret(app.id, endpoint.id).key
        task = self.svix.endpoint.recover(app.id, endpoint.id, m.RecoverIn(since=since))
        self.assertEqual(task.task, m.BackgroundTaskType.ENDPOINT_RECOVER)
        arrived = []
        for _ in failed:
            headers, body = self.receiver.next()
            self.assert_verifies(secret, headers, body)
            arrived.append(headers["webhook-id"])
        self.assertEqual(sorted(arrived), sorted(message.id for message in failed))
        self.assertEqual(self.finished(task).task, task.task)
        for message in failed:
            self.assertEqual(self.attempts(app, message, 5)[0].trigger_type, m.MessageAttemptTriggerType.MANUAL)

        late = self.endpoint(app, url=self.receiver.url + "late")
        task = self.svix.endpoint.replay_missing(app.id, late.id, m.ReplayIn(since=since))
        self.assertEqual(task.task, m.BackgroundTaskType.ENDPOINT_REPLAY)
        self.assertEqual(self.receiver.ids(2), sorted(message.id for message in failed))
        self.finished(task)
        if SECOND:
            # What was received counts as sent when its attempt is in the log.
            self.attempts(app, failed[1], 6)
            again = m.BulkReplayIn(since=since, event_types=["b"])
            task = self.svix.endpoint.bulk_replay(app.id, late.id, again)
            self.assertEqual(task.task, m.BackgroundTaskType.ENDPOINT_BULK_REPLAY)
            self.assertEqual(self.receiver.ids(1), [failed[1].id])
            self.finished(task)
        self.assertTrue(self.receiver.arrived.empty())
        listed = self.tasks.list(BackgroundTaskListOptions(task=m.BackgroundTaskType.ENDPOINT_RECOVER))
        self.assertEqual([one.status for one in listed.data], [m.BackgroundTaskStatus.FINISHED])
        self.assertEqual(len(self.tasks.list(BackgroundTaskListOptions(limit=1)).data), 1)
        self.refused(404, "not_found", self.tasks.get, "qtask_000000000000000000000000000")
        too_early = m.RecoverIn(since=since - timedelta(days=30))
        self.invalid(self.svix.endpoint.recover, app.id, endpoint.id, too_early)

    def test_usage_is_counted(self):
        app = self.app(uid="busy")
        self.endpoint(app)
        self.message(app)
        self.receiver.ids(1)
        now = datetime.now(timezone.utc)
        asked = m.AppUsageStatsIn(since=now - timedelta(days=1), until=now, app_ids=["busy", "nobody"])
        task = self.svix.statistics.aggregate_app_stats(asked)
        self.assertEqual((task.task, task.unresolved_app_ids), (m.BackgroundTaskType.APPLICATION_STATS, ["nobody"]))
        self.finished(task)
        task = self.svix.statistics.aggregate_event_types()
        self.assertEqual(task.task, m.BackgroundTaskType.EVENT_TYPE_AGGREGATE)
        self.finished(task)
