//! What delivering takes in memory at most.

use std::collections::VecDeque;

use postrider_domain::attempt::MAX_KEPT_ANSWER_BYTES;
use postrider_domain::memory::{KIB, Part};
use postrider_domain::message::MAX_BODY_BYTES;
use postrider_store::{ApplicationKey, EndpointKey, EnvironmentKey};

use crate::addresses::MAX_FAILED;
use crate::apart::{APART_BYTES, MAX_APART};
use crate::budget::OVERDRAFT;
use crate::dns::{MAX_ANSWER_BYTES, SOCKETS_PER_LOOK_UP};
use crate::holders::{MAX_KNOWN, Whose};
use crate::kept::ALLOWANCES_BYTES;
use crate::limits::{MAX_HEAD_BYTES, MAX_WAITING_FOR_A_LANE};
use crate::options::DeliveryOptions;
use crate::resolve::{CACHED_MISSES, CACHED_NAMES};
use crate::rest::MAX_LEFT_BYTES;
use crate::sender::MAX_SPARED_ENDPOINTS;
use crate::shard::REMEMBERED_BYTES;
use crate::sockets;
use crate::stuck::STUCK_BYTES;
use crate::system::{MAX_FILE_BYTES, MAX_LISTED_NAMES};
use crate::tls;

/// A connection over TLS and HTTP/1: its keys, and what it has of records.
const HTTP1_BYTES: u64 = 20 * KIB;

/// A connection over TLS and HTTP/2, with its task, buffers and tables, and the stream of a request. (Measured, as what 300 and 800
/// requests under way add to the process: 70 to 80 KiB. Not optimised it was 94, and is 104 since frames are counted by stream, a tenth
/// more.)
const HTTP2_BYTES: u64 = 96 * KIB;

/// What a byte of an HTTP/2 head takes that is not complete: its size counts 32 bytes for each field beside its own (RFC 9113
/// §6.5.2), and that is less than what a small field takes. (Measured: 3.3.) A complete one is let go at once.
const HEAD_FACTOR: u64 = 4;

/// A request with its connection, and what is read of its response at most. Over HTTP/1 it takes less.
const REQUEST_BYTES: u64 = HTTP2_BYTES + HEAD_FACTOR * MAX_HEAD_BYTES as u64 + MAX_KEPT_ANSWER_BYTES as u64;

/// A name with as many addresses as are kept of it: of 255 bytes, twice, with 32 addresses of 17 bytes.
const NAME_BYTES: u64 = KIB + KIB / 2;

/// A name that is being looked up: its future with the name, and of each family a question, an answer, and what is found in it.
const LOOK_UP_BYTES: u64 = 4 * KIB + SOCKETS_PER_LOOK_UP as u64 * (MAX_ANSWER_BYTES as u64 + 2 * KIB);

/// What `/etc/hosts` says, while it is read again beside what it said before, with the text, of which what is no UTF-8 takes three times as much.
const LISTED_BYTES: u64 = 2 * (64 * MAX_LISTED_NAMES as u64 + MAX_FILE_BYTES as u64) + 4 * MAX_FILE_BYTES as u64;

/// An address that has failed, with the name of its host.
const FAILED_BYTES: u64 = KIB / 2;

/// A queue has room for so many at least, however few are in it.
const LEAST_QUEUE: usize = 4;

/// A place among those who wait for a lane, if it is the only one of its application: itself and what says that it waits, a count, and
/// the application's queue and its turn. Tables and orders that have just grown are half empty.
const WAITING_BYTES: u64 = (LEAST_QUEUE * size_of::<EndpointKey>()
    + 2 * (size_of::<EndpointKey>()
        + size_of::<(Whose, usize)>()
        + size_of::<(Whose, VecDeque<EndpointKey>)>()
        + size_of::<Whose>())) as u64;

/// Which environments applications belong to; a table that has just grown is half empty.
const KNOWN_BYTES: u64 = (MAX_KNOWN * 2 * size_of::<(ApplicationKey, EnvironmentKey)>()) as u64;

/// So many loads are read from a store at a time, roughly. What another lane has is not paid for while it is read.
const LOADS: u64 = 4;

/// Of how many attempts of an endpoint it is remembered that others ended them; a table that has just grown is half empty.
const SPARED_BYTES: u64 = (MAX_SPARED_ENDPOINTS * 2 * (size_of::<(EndpointKey, u32)>() + 1)) as u64;

/// Every part that is bounded here.
pub fn memory(options: &DeliveryOptions) -> Vec<Part> {
    let in_flight = u64::from(options.max_in_flight);
    // Of HTTP/1 and of HTTP/2, each.
    let idle = sockets::idle(options.max_in_flight) as u64;
    let look_ups = u64::from(sockets::look_ups(options.max_in_flight));
    vec![
        Part::set(
            "delivery.memory_bytes",
            "messages that wait to be sent, and responses; up to twice the setting, and one message",
            options.memory_bytes.saturating_mul(OVERDRAFT).saturating_add(MAX_BODY_BYTES as u64),
        ),
        Part::set("delivery.max_in_flight", "requests in flight to endpoints", in_flight * REQUEST_BYTES),
        Part::fixed("connections to endpoints kept for the next request", idle * (HTTP1_BYTES + HTTP2_BYTES)),
        Part::fixed("messages over HTTP/2 that got a response before they were read", MAX_LEFT_BYTES as u64),
        Part::fixed("large messages re-read for another endpoint", LOADS * MAX_BODY_BYTES as u64),
        Part::fixed("which applications have HTTP/2 connections of their own", MAX_APART as u64 * APART_BYTES),
        Part::fixed("attempts cut off by other tenants' connections", SPARED_BYTES),
        Part::fixed("pace of slow endpoints", REMEMBERED_BYTES),
        Part::fixed("endpoints that wait for their turn", MAX_WAITING_FOR_A_LANE as u64 * WAITING_BYTES),
        Part::fixed("application-to-environment cache", KNOWN_BYTES),
        Part::fixed("per-application usage of stored responses", ALLOWANCES_BYTES),
        Part::fixed("deliveries whose results cannot be stored", STUCK_BYTES),
        Part::fixed("cache of host names", (CACHED_NAMES + CACHED_MISSES) as u64 * NAME_BYTES),
        Part::fixed("look-ups of host names in progress", look_ups * LOOK_UP_BYTES),
        Part::fixed("contents of /etc/hosts", LISTED_BYTES),
        Part::fixed("cache of TLS sessions", tls::SESSIONS_BYTES),
        Part::fixed("host addresses that failed lately", MAX_FAILED as u64 * FAILED_BYTES),
    ]
}
