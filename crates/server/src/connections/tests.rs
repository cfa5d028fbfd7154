//! Which connections give way, in which order, and what is counted: without sockets, by a clock that the tests move.

use super::*;
use futures_util::FutureExt as _;
use postrider_api::Progress as _;

impl Ranks {
    fn is_empty(&self) -> bool {
        self.by_count.is_empty() && self.by_age.is_empty()
    }
}

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

fn admit(connections: &Arc<Connections>, address: IpAddr) -> Arc<Place> {
    Arc::new(connections.admit(address).expect("there is room"))
}

fn is_closed(place: &Place) -> bool {
    place.told(None).now_or_never() == Some(Told::Close)
}

/// The request of a known caller.
fn known(place: &Arc<Place>) -> Busy {
    let busy = place.begin();
    busy.caller_is_known();
    busy
}

/// One of which it is not known yet whose it is.
fn nobodys(place: &Arc<Place>) -> Busy {
    let busy = place.begin();
    busy.ask_who();
    busy
}

/// A request that is answered and not written to its end.
fn unread(place: &Arc<Place>, is_known: bool) -> Busy {
    let busy = if is_known { known(place) } else { place.begin() };
    busy.answer();
    busy
}

/// As long as this after now.
fn after(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

#[test]
fn the_connection_that_was_idle_for_longest_is_closed_for_a_new_one() {
    let connections = Connections::new(3, 3);
    let places = [admit(&connections, HERE), admit(&connections, HERE), admit(&connections, HERE)];
    drop(unread(&places[0], true));
    let _busy = known(&places[2]);
    let fourth = admit(&connections, HERE);
    assert_eq!([0, 1, 2].map(|at| is_closed(&places[at])), [false, true, false]);
    drop(fourth);
    let _fifth = admit(&connections, THERE);
    assert!(!is_closed(&places[0]));
}

#[test]
fn the_address_with_most_connections_loses_first() {
    let connections = Connections::new(4, 4);
    let few = admit(&connections, THERE);
    let many = [HERE; 3].map(|address| admit(&connections, address));
    let busy = many.each_ref().map(|place| unread(place, false));
    let _first = admit(&connections, THERE);
    assert!(!is_closed(&few) && is_closed(&many[0]), "what is not read is as good as idle");
    let _second = admit(&connections, THERE);
    assert!(!is_closed(&few) && is_closed(&many[1]), "it has as many, but they are new");
    let _third = connections.admit_at(THERE, after(NEW_SECONDS));
    assert!(is_closed(&few), "its address has most now, and it has had nothing to do for longest");
    drop(busy);
}

#[test]
fn the_request_of_a_known_caller_that_is_not_answered_is_never_closed_for_another() {
    let connections = Connections::new(2, 2);
    let (first, second) = (admit(&connections, HERE), admit(&connections, HERE));
    let busy = (known(&first), known(&second));
    assert!(connections.admit_at(THERE, after(3_600)).is_none());
    drop(busy.1);
    assert!(connections.admit(THERE).is_some());
    assert!(is_closed(&second) && !is_closed(&first));
}

#[test]
fn requests_whose_callers_are_not_known_give_way_those_of_the_address_with_most_first() {
    let connections = Connections::new(4, 4);
    let few = admit(&connections, THERE);
    let many = [HERE; 3].map(|address| admit(&connections, address));
    // Those of the other address are there for longer.
    let busy = [&few, &many[0], &many[1], &many[2]].map(nobodys);
    let new = admit(&connections, THERE);
    assert_eq!(many[0].told(None).now_or_never(), Some(Told::Refuse));
    assert!(many[0].refused().now_or_never().is_some() && few.refused().now_or_never().is_none());
    busy[1].answer();
    assert!(is_closed(&many[0]), "it is told so, and does not keep its place");
    // What is known by then stays.
    busy[2].caller_is_known();
    let newer = connections.admit_at(THERE, after(NEW_SECONDS));
    assert!(is_closed(&new), "it has nothing to do, and its address has as many");
    drop((few, newer));
    let _others = [THERE; 2].map(|address| admit(&connections, address));
    let _last = admit(&connections, IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 3)));
    // The others are new, and their address has as many.
    assert_eq!([1, 2].map(|at| many[at].told(None).now_or_never()), [None, Some(Told::Refuse)]);
    assert_eq!(connections.state.lock().count, 4);
}

#[test]
fn who_is_new_is_not_closed_for_an_address_that_has_requests_of_nobody_on_all_of_its_connections() {
    let connections = Connections::new(4, 4);
    let many = [HERE; 3].map(|address| admit(&connections, address));
    let busy = many.each_ref().map(nobodys);
    let new = admit(&connections, THERE);
    let _more = admit(&connections, HERE);
    assert!(!is_closed(&new), "it has nothing to do, but is not one of many");
    assert_eq!(many[0].told(None).now_or_never(), Some(Told::Refuse));
    drop(busy);
}

/// Addresses of somebody who has many.
fn elsewhere(number: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, number))
}

#[test]
fn what_is_nobodys_goes_before_what_known_callers_use_however_many_addresses_it_is_of() {
    let connections = Connections::new(12, 12);
    let kept = [HERE; 5].map(|address| admit(&connections, address));
    kept.iter().for_each(|place| drop(unread(place, true)));
    let just_come = admit(&connections, HERE);
    let others = [0, 1, 2, 3, 4, 5].map(|number| admit(&connections, elsewhere(number)));
    // One with a request after the other, one that waits to be known, one that came a moment ago, and three that had an answer.
    let under_way = (unread(&others[0], false), nobodys(&others[1]));
    others[3..].iter().for_each(|place| drop(unread(place, false)));
    let goes = |seconds| {
        let (mut state, now) = (connections.state.lock(), after(seconds));
        let number = state.to_close(now).unwrap();
        state.close(number, now);
        number
    };
    let first: Vec<_> = (0..4).map(|_| goes(0)).collect();
    assert_eq!(first, [0, 3, 4, 5].map(|at| others[at].number), "they may be younger, and alone at their addresses");
    drop(just_come);
    // The request of nobody goes, and not who comes anew; then what is used by one who has more.
    assert_eq!([goes(0), goes(0)], [others[1].number, kept[0].number]);
    assert_eq!([goes(NEW_SECONDS), goes(KEPT_SECONDS)], [others[2].number, kept[1].number]);
    drop(under_way);
}

#[test]
fn a_caller_who_is_looked_up_at_a_busy_address_is_not_turned_away_for_what_is_nobodys() {
    let connections = Connections::new(6, 6);
    let busy = [HERE; 3].map(|address| admit(&connections, address));
    let looked_up = busy.each_ref().map(nobodys);
    let others = [0, 1, 2].map(|number| admit(&connections, elsewhere(number)));
    // One was answered, one has a request that is, and one is silent.
    drop(unread(&others[0], false));
    let answered = unread(&others[1], false);
    let _new = [3, 4, 5].map(|number| connections.admit_at(elsewhere(number), after(NEW_SECONDS)).unwrap());
    assert_eq!(others.each_ref().map(|place| is_closed(place)), [true; 3]);
    assert_eq!(busy.each_ref().map(|place| place.told(None).now_or_never()), [None; 3]);
    // Those that came have nothing to do either, but came a moment ago.
    let _more = admit(&connections, THERE);
    assert_eq!(busy[0].told(None).now_or_never(), Some(Told::Refuse));
    drop((looked_up, answered));
}

#[test]
fn of_one_address_what_known_callers_use_goes_after_requests_of_nobody() {
    let connections = Connections::new(5, 5);
    let [slow, unknown, read, kept, new] = [HERE; 5].map(|address| admit(&connections, address));
    drop(unread(&kept, true));
    let busy = (known(&slow), nobodys(&unknown), unread(&read, false));
    slow.wait(Awaited::Body, 0);
    let goes = |seconds| {
        let (mut state, now) = (connections.state.lock(), after(seconds));
        let number = state.addresses[0].to_close(state.few_of_address, now);
        assert_eq!(state.to_close(now), number, "there is one address");
        state.close(number.unwrap(), now);
        number.unwrap()
    };
    assert_eq!(goes(0), read.number);
    assert_eq!(goes(0), unknown.number);
    assert_eq!(goes(0), new.number);
    assert_eq!(goes(0), kept.number);
    drop(busy);
}

#[test]
fn of_one_address_what_has_been_idle_for_long_goes_before_what_is_slow_and_that_before_requests_of_nobody() {
    let connections = Connections::new(4, 4);
    let [unknown, slow, kept, new] = [HERE; 4].map(|address| admit(&connections, address));
    drop(unread(&kept, true));
    let busy = (known(&slow), nobodys(&unknown));
    slow.wait(Awaited::Body, 0);
    let to_close = |seconds| connections.state.lock().to_close(after(seconds));
    assert_eq!(to_close(0), Some(unknown.number));
    assert_eq!(to_close(NEW_SECONDS), Some(new.number));
    drop(new);
    assert_eq!(to_close(SLOW_SECONDS + 1), Some(slow.number));
    assert_eq!(to_close(KEPT_SECONDS), Some(kept.number));
    drop(busy);
}

#[test]
fn who_is_slow_for_long_enough_is_found_behind_any_number_that_are_not_yet() {
    let many = u32::try_from(3 * LOOKED_AT).unwrap();
    let connections = Connections::new(2 * many + 1, 2);
    let slow = |address: IpAddr| {
        let place = admit(&connections, address);
        let busy = known(&place);
        place.wait(Awaited::Body, 0);
        (place, busy)
    };
    let first = slow(HERE);
    let address = |number: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number / 2));
    let others: Vec<_> = (0..2 * many).map(|number| slow(address(number))).collect();
    // Those go on, and are waited for anew.
    let since = |place: &Place| connections.state.lock().all[place.number].client.since.unwrap();
    let due = since(&first.0) + SLOW;
    for (place, _) in &others {
        connections.state.lock().change(place.number, due, |entry| {
            entry.client.go_on(Awaited::Body, due);
            entry.client.wait(Awaited::Body, PACE_BYTES * 10, due);
        });
    }
    assert_eq!(connections.state.lock().to_close(due - Duration::from_nanos(1)), None);
    assert_eq!(connections.state.lock().to_close(due), Some(first.0.number));
}

#[test]
fn a_caller_that_becomes_known_as_its_request_is_turned_away_is_answered() {
    let connections = Connections::new(1, 1);
    let first = admit(&connections, HERE);
    let busy = nobodys(&first);
    let _second = admit(&connections, THERE);
    busy.caller_is_known();
    busy.ask_who();
    assert_eq!(first.told(None).now_or_never(), Some(Told::Finish));
    assert!(first.refused().now_or_never().is_none());
    assert_eq!(connections.state.lock().count, 2, "one too many until then");
    busy.answer();
    assert_eq!(first.told(None).now_or_never(), Some(Told::Finish), "it is read");
    first.wait(Awaited::Reader, 0);
    let mut state = connections.state.lock();
    state.close(first.number, after(SLOW_SECONDS + 1));
    drop(state);
    assert!(is_closed(&first), "it is not, for long");
}

#[test]
fn a_connection_that_is_answered_first_and_does_not_read_gives_way_in_the_end() {
    let connections = Connections::new(1, 1);
    let first = admit(&connections, HERE);
    let _second = admit(&connections, HERE);
    let busy = known(&first);
    busy.answer();
    let second = known(&_second);
    first.wait(Awaited::Reader, 0);
    assert!(connections.admit_at(THERE, after(SLOW_SECONDS - 1)).is_none(), "both count");
    assert_eq!(first.told(None).now_or_never(), Some(Told::Finish));
    drop(second);
    assert!(connections.admit_at(THERE, after(SLOW_SECONDS + 1)).is_some());
    assert!(is_closed(&first));
}

#[test]
fn a_body_that_is_worked_on_is_not_waited_for() {
    let connections = Connections::new(1, 1);
    let first = admit(&connections, HERE);
    let busy = known(&first);
    busy.await_body(&mut 0);
    busy.body_is_worked_on();
    assert!(connections.admit_at(THERE, after(3_600)).is_none());
    busy.await_body(&mut 0);
    assert!(connections.admit_at(THERE, after(SLOW_SECONDS + 1)).is_some());
    assert!(is_closed(&first));
}

#[test]
fn an_answer_to_nobody_in_particular_is_given_up_however_it_is_read() {
    let connections = Connections::new(2, 2);
    let (first, second) = (admit(&connections, HERE), admit(&connections, HERE));
    let _busy = (unread(&first, false), unread(&second, false));
    // A byte now and then.
    for _ in 0..10 {
        first.wait(Awaited::Reader, 1);
        first.go_on(Awaited::Reader);
    }
    let _third = admit(&connections, THERE);
    assert!(is_closed(&first) && !is_closed(&second));
}

#[test]
fn an_answer_to_a_known_caller_is_given_up_if_it_is_not_read_at_its_pace() {
    let connections = Connections::new(2, 2);
    let (first, second) = (admit(&connections, HERE), admit(&connections, HERE));
    let _busy = (unread(&first, true), unread(&second, true));
    assert!(connections.admit_at(THERE, after(3_600)).is_none(), "they are read");
    let soon = after(SLOW_SECONDS - 1);
    second.wait(Awaited::Reader, 0);
    assert!(connections.admit_at(THERE, soon).is_none(), "not for long");
    assert!(connections.admit_at(THERE, after(SLOW_SECONDS + 1)).is_some());
    assert!(!is_closed(&first) && is_closed(&second));
}

#[test]
fn a_known_callers_short_answer_that_did_not_fit_is_not_idle_until_it_is_written() {
    let connections = Connections::new(1, 1);
    let first = admit(&connections, HERE);
    drop(unread(&first, true));
    first.wait(Awaited::Reader, 0);
    assert!(connections.admit_at(THERE, after(SLOW_SECONDS - 1)).is_none());
    first.go_on(Awaited::Reader);
    assert_eq!(connections.state.lock().all[first.number].waits().map(|(kind, _)| kind), Some(Kind::Kept));
    first.wait(Awaited::Reader, 0);
    assert!(connections.admit_at(THERE, after(SLOW_SECONDS + 1)).is_some());
    assert!(is_closed(&first));
}

#[test]
fn a_body_that_does_not_come_gives_way() {
    let connections = Connections::new(1, 1);
    let first = admit(&connections, HERE);
    let _busy = known(&first);
    let soon = after(SLOW_SECONDS - 1);
    first.wait(Awaited::Body, 0);
    assert!(connections.admit_at(THERE, soon).is_none());
    first.go_on(Awaited::Body);
    assert!(connections.admit_at(THERE, after(3_600)).is_none(), "now it waits for the server");
    first.wait(Awaited::Body, 1);
    assert!(connections.admit_at(THERE, after(SLOW_SECONDS + 1)).is_some());
    assert!(is_closed(&first));
}

#[test]
fn a_body_that_does_not_go_on_gives_way_also_when_its_answer_has_begun() {
    let connections = Connections::new(1, 1);
    let first = admit(&connections, HERE);
    let busy = unread(&first, true);
    first.wait(Awaited::Body, 0);
    assert!(connections.admit_at(THERE, after(SLOW_SECONDS + 1)).is_some());
    assert!(is_closed(&first));
    drop(busy);
}

/// A known caller's request that is answered before its body has come, which comes until what is returned is dropped.
fn early(place: &Arc<Place>) -> Receiving {
    let busy = Arc::new(known(place));
    let receiving = busy.receive();
    busy.answer();
    receiving
}

fn kind(place: &Place) -> Option<Kind> {
    let state = place.connections.state.lock();
    state.all[place.number].waits().map(|(kind, _)| kind)
}

#[test]
fn a_request_that_is_answered_before_its_body_has_come_is_nobodys_until_that_has() {
    let connections = Connections::new(2, 2);
    let [kept, place] = [HERE; 2].map(|address| admit(&connections, address));
    drop(unread(&kept, true));
    let first = early(&place);
    assert!(kind(&place) == Some(Kind::Done) && place.body_comes());
    drop(first);
    assert!(kind(&place) == Some(Kind::Kept) && !place.body_comes());
    // Whoever comes to its end late has nothing to say of the next request's.
    let second = early(&place);
    let third = early(&place);
    drop(second);
    assert_eq!(kind(&place), Some(Kind::Done));
    let _new = admit(&connections, THERE);
    assert!(is_closed(&place) && !is_closed(&kept), "at once, though the other was used before");
    drop(third);
}

#[test]
fn a_body_that_has_come_before_the_answer_is_not_waited_for() {
    let connections = Connections::new(1, 1);
    let place = admit(&connections, HERE);
    let busy = Arc::new(known(&place));
    drop(busy.receive());
    busy.answer();
    drop(busy);
    assert_eq!(kind(&place), Some(Kind::Kept));
}

#[test]
fn few_of_those_who_come_are_spared_while_there_is_what_known_callers_have_just_used() {
    for address in [HERE, THERE] {
        // Six of a hundred are few.
        let connections = Connections::new(100, 100);
        let used: Vec<_> = (0..93).map(|_| admit(&connections, HERE)).collect();
        used.iter().for_each(|place| drop(unread(place, true)));
        let unknown: Vec<_> = (0..6).map(|_| admit(&connections, address)).collect();
        let _looked_up: Vec<_> = unknown.iter().map(nobodys).collect();
        let new = admit(&connections, address);
        let _more = admit(&connections, address);
        assert!(is_closed(&used[0]), "{address}");
        let busy = nobodys(&new);
        let _more = admit(&connections, address);
        let told = unknown[0].told(None).now_or_never();
        assert_eq!(told, Some(Told::Refuse), "{address}: seven are not, and that is who came first");
        assert!(!is_closed(&used[1]));
        drop(busy);
    }
}

#[test]
fn what_comes_at_its_pace_makes_up_for_what_was_waited_and_a_byte_now_and_then_does_not() {
    let start = Instant::now();
    for (bytes, is_kept) in [(PACE_BYTES, true), (1, false)] {
        let (mut client, mut now) = (Client::default(), start);
        for _ in 0..=SLOW_SECONDS {
            client.wait(Awaited::Reader, bytes, now);
            now += Duration::from_secs(1);
            client.go_on(Awaited::Reader, now);
        }
        client.wait(Awaited::Reader, bytes, now);
        assert_eq!(client.since.is_some_and(|since| !is_slow(since, now)), is_kept, "{bytes}");
    }
}

#[test]
fn a_request_that_comes_when_its_connection_is_about_to_be_closed_is_answered_and_not_waited_for() {
    let connections = Connections::new(1, 1);
    let first = admit(&connections, HERE);
    let _second = admit(&connections, HERE);
    assert!(first.is_ending() && is_closed(&first));
    let busy = first.begin();
    assert_eq!(first.told(None).now_or_never(), Some(Told::Finish));
    busy.answer();
    assert_eq!(first.told(Some(Told::Finish)).now_or_never(), Some(Told::Close), "nobody reads it");
    drop(busy);
    assert!(is_closed(&first));
    drop(first);
    assert_eq!(connections.state.lock().count, 1);
}

#[test]
fn connections_that_get_requests_as_they_are_chosen_count_until_they_are_answered() {
    let connections = Connections::new(4, 2);
    let mut places: Vec<_> = (0..2).map(|_| admit(&connections, HERE)).collect();
    let mut busy = Vec::new();
    // Each new one has an old one closed, which has a request by then.
    for at in 0.. {
        let Some(place) = connections.admit(HERE) else { break };
        assert!(at < 2, "more and more of them are let in");
        places.push(Arc::new(place));
        busy.push(known(&places[at]));
    }
    assert_eq!(busy.len(), 2);
    assert_eq!(connections.state.lock().addresses[0].count, 2, "one idle one went, for what was too many");
    let _other = admit(&connections, THERE);
    drop(busy);
    assert!(connections.admit(HERE).is_some());
}

#[test]
fn one_address_closes_its_own_connections_only() {
    let connections = Connections::new(4, 2);
    let other = admit(&connections, THERE);
    let mine: Vec<_> = (0..10).map(|_| admit(&connections, HERE)).collect();
    assert!(!is_closed(&other));
    assert_eq!(mine.iter().filter(|place| is_closed(place)).count(), 8);
    drop((other, mine));
    let state = connections.state.lock();
    assert!(state.all.is_empty() && state.ranks.iter().all(Ranks::is_empty) && state.by_address.is_empty());
    assert!(state.addresses.is_empty() && state.count == 0);
}

#[test]
fn what_is_cut_ends_at_once_whatever_it_does() {
    let connections = Connections::new(2, 2);
    let (first, second) = (admit(&connections, HERE), admit(&connections, HERE));
    let busy = first.begin();
    connections.cut();
    busy.caller_is_known();
    busy.answer();
    assert_eq!([first, second].map(|place| place.told(None).now_or_never()), [Some(Told::Cut); 2]);
}

#[tokio::test]
async fn who_has_no_good_token_and_does_not_read_does_not_hold_up_the_end() {
    let connections = Connections::new(5, 5);
    let [nobodys, short, late, known, idle] = [HERE; 5].map(|address| admit(&connections, address));
    let (busy, early, late_one) = (unread(&known, true), unread(&nobodys, false), late.begin());
    known.wait(Awaited::Reader, 0);
    // What is short is under way no longer, but did not fit beside what its client has not read.
    drop(unread(&short, false));
    short.wait(Awaited::Reader, 0);
    assert!(connections.end().now_or_never().is_none());
    let told = || [&nobodys, &short, &late, &known, &idle].map(|place| place.told(None).now_or_never().unwrap());
    assert_eq!(told(), [Told::End; 5], "it may read it yet");
    connections.close_unread(after(UNREAD_AT_THE_END_SECONDS));
    assert_eq!(told(), [Told::Close, Told::Close, Told::End, Told::End, Told::End]);
    late_one.answer();
    connections.close_unread(after(3_600));
    assert_eq!(
        told(),
        [Told::Close, Told::Close, Told::Close, Told::End, Told::End],
        "how long others may take the settings say"
    );
    drop((early, late_one, busy));
}

#[tokio::test]
async fn all_are_told_that_the_server_ends_and_waited_for() {
    let connections = Connections::new(3, 3);
    let (first, second) = (admit(&connections, HERE), admit(&connections, THERE));
    let busy = second.begin();
    let mut end = std::pin::pin!(connections.end());
    assert!(end.as_mut().now_or_never().is_none());
    assert_eq!((first.told(None).await, second.told(None).await), (Told::End, Told::End));
    drop(first);
    assert!(end.as_mut().now_or_never().is_none());
    drop((busy, second));
    end.await;
}

/// A known caller's request whose body comes so many seconds late.
fn late(place: &Arc<Place>, seconds: u64) {
    let busy = known(place);
    place.wait(Awaited::Body, 0);
    let mut state = place.connections.state.lock();
    state.change(place.number, Instant::now(), |entry| {
        entry.client.since = entry.client.since.and_then(|since| since.checked_sub(Duration::from_secs(seconds)));
    });
    drop(state);
    place.go_on(Awaited::Body);
    busy.answer();
}

#[test]
fn a_body_that_is_late_again_goes_before_what_known_callers_keep_and_one_that_is_late_once_does_not() {
    let connections = Connections::new(3, 3);
    let [again, once, kept] = [HERE; 3].map(|address| admit(&connections, address));
    drop(unread(&kept, true));
    late(&again, SLOW_SECONDS - 1);
    let [late_again, late_once] = [&again, &once].map(known);
    again.wait(Awaited::Body, 0);
    once.wait(Awaited::Body, 0);
    let to_close = |seconds| connections.state.lock().to_close(after(seconds));
    assert_eq!(to_close(LATE_SECONDS), Some(again.number));
    assert_eq!(to_close(KEPT_SECONDS + 1), Some(again.number));
    drop((late_again, again));
    assert_eq!(to_close(KEPT_SECONDS + 1), Some(kept.number), "the other was late once");
    drop(late_once);
}

#[test]
fn whoever_was_late_and_sends_promptly_is_not_late() {
    let connections = Connections::new(1, 1);
    let place = admit(&connections, HERE);
    late(&place, SLOW_SECONDS - 1);
    for _ in 0..3 {
        known(&place).answer();
    }
    let _busy = known(&place);
    place.wait(Awaited::Body, 0);
    let state = connections.state.lock();
    assert_eq!(state.all[place.number].waits().map(|(kind, _)| kind), Some(Kind::Slow));
}

#[test]
fn that_connections_are_short_is_said_at_once_and_then_once_in_a_while_with_a_count() {
    let connections = Connections::new(1, 1);
    let now = Instant::now();
    let place = connections.admit_at(HERE, now).map(Arc::new).unwrap();
    assert_eq!(connections.state.lock().shortage.told, None, "there is one for everybody");
    let busy = known(&place);
    for _ in 0..3 {
        assert!(connections.admit_at(THERE, now).is_none());
    }
    let mut state = connections.state.lock();
    assert_eq!(state.shortage.told, Some(now), "the first is told at once");
    assert_eq!(state.shortage.take(now + SHORTAGE - Duration::from_nanos(1)), None);
    assert_eq!(state.shortage.take(now + SHORTAGE), Some(Short { gave_way: 0, refused: 2 }));
    assert_eq!(state.shortage.take(now + 2 * SHORTAGE), None);
    drop(state);
    drop(busy);
}
