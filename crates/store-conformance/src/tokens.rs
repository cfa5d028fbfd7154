//! Cases for tokens of applications.

use postrider_domain::time::Timestamp;

use super::Harness;
use super::world::{App, FAR, World, after, by_id, done, environment, once, other_environment, stored_answer};
use postrider_store::{Capped, IssuedToken, MAX_TOKEN_RULES, TokenExpiry, WriteError, Written};

fn token(app: &App, session: Option<&str>, issued_at: Timestamp) -> IssuedToken {
    let session = session.map(str::to_owned);
    IssuedToken { environment: environment(), application: app.value.id, session, issued_at }
}

pub(super) async fn the_secret_is_the_first_one_offered<H: Harness>(world: &mut World<H>) {
    assert_eq!(world.store().token_secret([7; 32]).await.unwrap(), [7; 32]);
    assert_eq!(world.store().token_secret([8; 32]).await.unwrap(), [7; 32]);
    world.reopen().await;
    assert_eq!(world.store().token_secret([9; 32]).await.unwrap(), [7; 32]);
}

pub(super) async fn tokens_issued_earlier_are_refused_from_then_on<H: Harness>(world: &World<H>) {
    let (store, app, other) = (world.store(), world.application().await, world.application().await);
    let (now, later) = (world.tick(), world.tick());
    let expiry = TokenExpiry { sessions: Vec::new(), issued_before: now, refused_from: after(now, 60) };
    done(store.expire_tokens(app.key, expiry, None, now).await.unwrap());
    let old = world_start();
    for (token, at, want) in [
        (token(&app, None, old), after(now, 59), false),
        (token(&app, None, old), after(now, 60), true),
        (token(&app, Some("s"), old), after(now, 60), true),
        (token(&app, None, now), after(now, 60), false),
        (token(&app, None, later), after(now, 60), false),
        (token(&other, None, old), after(now, 60), false),
    ] {
        assert_eq!(store.token_is_expired(&token, at).await.unwrap(), want, "{token:?}");
    }
    // Ending them later does not revive what was ended already; ending them sooner counts.
    for (wait, refused) in [(120, true), (0, true)] {
        let expiry = TokenExpiry { sessions: Vec::new(), issued_before: now, refused_from: after(now, wait) };
        done(store.expire_tokens(app.key, expiry, None, now).await.unwrap());
        assert_eq!(store.token_is_expired(&token(&app, None, old), after(now, 60)).await.unwrap(), refused, "{wait}");
    }
    assert!(store.token_is_expired(&token(&app, None, old), now).await.unwrap());
}

pub(super) async fn only_tokens_of_the_named_sessions_are_ended<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let now = world.tick();
    let sessions = ["a", "b"].map(str::to_owned).to_vec();
    let expiry = TokenExpiry { sessions, issued_before: now, refused_from: now };
    done(store.expire_tokens(app.key, expiry, None, now).await.unwrap());
    for (session, want) in [(Some("a"), true), (Some("b"), true), (Some("c"), false), (None, false)] {
        let token = token(&app, session, world_start());
        assert_eq!(store.token_is_expired(&token, now).await.unwrap(), want, "{session:?}");
    }
}

pub(super) async fn tokens_are_good_as_long_as_there_is_their_application<H: Harness>(world: &World<H>) {
    let (store, app, other) = (world.store(), world.application().await, world.application().await);
    let elsewhere = IssuedToken { environment: other_environment(), ..token(&app, None, FAR) };
    let mut issued = [None, Some("s")].map(|session| token(&app, session, FAR));
    for token in &issued {
        assert!(!store.token_is_expired(token, world.tick()).await.unwrap(), "{token:?}");
    }
    assert!(
        store.token_is_expired(&elsewhere, world.tick()).await.unwrap(),
        "no environment has another's application"
    );
    store.delete_application(&environment(), &by_id(app.value.id), world.tick()).await.unwrap();
    for token in &mut issued {
        assert!(store.token_is_expired(token, world.tick()).await.unwrap(), "{token:?}");
        token.application = other.value.id;
        assert!(!store.token_is_expired(token, world.tick()).await.unwrap(), "{token:?}");
    }
}

pub(super) async fn ending_tokens_is_carried_out_once<H: Harness>(world: &World<H>) {
    let (store, app, key) = (world.store(), world.application().await, world.idempotency_key());
    let (now, later) = (world.tick(), world.tick());
    for (at, first) in [(now, true), (later, false)] {
        let expiry = TokenExpiry { sessions: Vec::new(), issued_before: at, refused_from: at };
        let written = store.expire_tokens(app.key, expiry, Some(once(key, world_start(), "{}")), at).await.unwrap();
        assert_eq!(written == Written::Done(()), first);
        assert!(first || written == Written::Replayed(stored_answer("{}")));
    }
    assert!(!store.token_is_expired(&token(&app, None, now), later).await.unwrap());
}

/// Before everything that a case makes.
fn world_start() -> Timestamp {
    Timestamp::from_micros(1_000_000_000)
}

pub(super) async fn ending_tokens_again_and_again_refuses_what_each_of_them_said<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    // Some at once, some later; of all sessions, and of two.
    let ends: Vec<(Timestamp, Timestamp, Option<&str>)> = (0..60u64)
        .map(|number| {
            let at = after(world_start(), 10 * number);
            let grace = [0, 35, 7, 300][number as usize % 4];
            (at, after(at, grace), [None, Some("a"), Some("b"), Some("a"), Some("b")][number as usize % 5])
        })
        .collect();
    let mut until = 0;
    for (at, from, session) in &ends {
        let sessions = session.iter().map(|session| (*session).to_owned()).collect();
        let expiry = TokenExpiry { sessions, issued_before: *at, refused_from: *from };
        done(store.expire_tokens(app.key, expiry, None, *at).await.unwrap());
        until += 1;
        if until % 6 != 0 {
            continue;
        }
        for seconds in (0..700).step_by(45) {
            let issued = after(world_start(), seconds);
            for (name, now) in [(None, *at), (Some("a"), *at), (Some("b"), *at), (Some("a"), after(*at, 500))] {
                let is_refused = |(before, from, session): &(Timestamp, Timestamp, Option<&str>)| {
                    issued < *before && *from <= now && (session.is_none() || *session == name)
                };
                let want = ends[..until].iter().any(is_refused);
                let token = token(&app, name, issued);
                assert_eq!(store.token_is_expired(&token, now).await.unwrap(), want, "{token:?} at {now}");
            }
        }
    }
}

pub(super) async fn so_many_sessions_are_ended_and_no_more_until_all_are<H: Harness>(world: &World<H>) {
    let (store, app, other) = (world.store(), world.application().await, world.application().await);
    let end = async |app: &App, names: std::ops::Range<usize>| {
        let now = world.tick();
        let sessions = names.map(|number| number.to_string()).collect();
        let expiry = TokenExpiry { sessions, issued_before: now, refused_from: now };
        store.expire_tokens(app.key, expiry, None, now).await
    };
    for start in (0..MAX_TOKEN_RULES).step_by(1_000) {
        done(end(&app, start..start + 1_000).await.unwrap());
    }
    // Those that are ended can be ended again; no others.
    done(end(&app, 0..1_000).await.unwrap());
    let refused = end(&app, MAX_TOKEN_RULES..MAX_TOKEN_RULES + 1).await;
    assert!(matches!(refused, Err(WriteError::Full { of: Capped::TokenRules, .. })), "{refused:?}");
    done(end(&other, 0..1).await.unwrap());
    let ended = token(&app, Some("17"), world_start());
    // To end all of them later takes the place of none.
    let now = world.tick();
    let later = TokenExpiry { sessions: Vec::new(), issued_before: now, refused_from: FAR };
    let refused = store.expire_tokens(app.key, later, None, now).await;
    assert!(matches!(refused, Err(WriteError::Full { of: Capped::TokenRules, .. })), "{refused:?}");
    done(end(&app, 0..0).await.unwrap());
    done(end(&app, MAX_TOKEN_RULES..MAX_TOKEN_RULES + 1).await.unwrap());
    assert!(store.token_is_expired(&ended, world.tick()).await.unwrap(), "one rule says what all of them did");
}
