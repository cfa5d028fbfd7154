//! Cases for API keys.

use postrider_domain::ids::{Id as _, KeyId, Ksuid};
use postrider_domain::time::Timestamp;

use super::Harness;
use super::world::{World, environment};
use postrider_store::{ApiKey, KeyHash, WriteError};

fn new_key(number: u8, now: Timestamp) -> ApiKey {
    ApiKey {
        id: KeyId::from_ksuid(Ksuid::from_bytes([number; 20])),
        hash: KeyHash([number; 32]),
        hint: "pk_abcd".to_owned(),
        name: "CI – Zürich".to_owned(),
        environment: environment(),
        scopes: vec!["*".to_owned(), "read".to_owned()],
        created_at: now,
        expires_at: None,
        last_used_at: None,
    }
}

pub(super) async fn a_key_reads_back_and_is_listed_by_id<H: Harness>(world: &World<H>) {
    let store = world.store();
    let keys = [3, 1, 2].map(|number| ApiKey {
        expires_at: (number == 1).then(|| Timestamp::from_micros(1)),
        last_used_at: (number == 2).then(|| world.tick()),
        ..new_key(number, world.tick())
    });
    for key in &keys {
        store.create_api_key(key.clone()).await.unwrap();
    }
    for key in &keys {
        assert_eq!(store.api_key(&key.hash).await.unwrap().as_ref(), Some(key), "expired or not");
    }
    assert_eq!(store.api_key(&KeyHash([9; 32])).await.unwrap(), None);
    let [three, one, two] = keys;
    assert_eq!(store.api_keys().await.unwrap(), [one, two, three]);
}

pub(super) async fn a_hash_is_taken_once<H: Harness>(world: &World<H>) {
    let store = world.store();
    let first = new_key(1, world.tick());
    store.create_api_key(first.clone()).await.unwrap();
    for twin in
        [ApiKey { hash: first.hash, ..new_key(2, world.tick()) }, ApiKey { id: first.id, ..new_key(2, world.tick()) }]
    {
        let refused = store.create_api_key(twin).await;
        assert!(matches!(refused, Err(WriteError::Conflict)), "{refused:?}");
    }
    assert_eq!(store.api_keys().await.unwrap(), [first]);
}

pub(super) async fn a_revoked_key_is_gone<H: Harness>(world: &World<H>) {
    let store = world.store();
    let (key, other) = (new_key(1, world.tick()), new_key(2, world.tick()));
    store.create_api_key(key.clone()).await.unwrap();
    store.create_api_key(other.clone()).await.unwrap();
    store.revoke_api_key(key.id).await.unwrap();
    assert_eq!(store.api_key(&key.hash).await.unwrap(), None);
    assert_eq!(store.api_keys().await.unwrap(), [other]);
    let again = store.revoke_api_key(key.id).await;
    assert!(matches!(again, Err(WriteError::NotFound)), "{again:?}");
}

pub(super) async fn touching_notes_the_last_use_and_skips_what_is_gone<H: Harness>(world: &World<H>) {
    let store = world.store();
    let (one, two) = (new_key(1, world.tick()), new_key(2, world.tick()));
    for key in [&one, &two] {
        store.create_api_key(key.clone()).await.unwrap();
    }
    let (now, unknown) = (world.tick(), KeyHash([9; 32]));
    store.touch_api_keys(vec![(unknown, now), (two.hash, now)]).await.unwrap();
    store.touch_api_keys(Vec::new()).await.unwrap();
    let want = ApiKey { last_used_at: Some(now), ..two };
    assert_eq!(store.api_keys().await.unwrap(), [one, want]);
}
