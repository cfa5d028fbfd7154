//! `postrider key`: API keys, made, listed and revoked in the store itself, also while a server runs on it.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postrider_domain::application::EnvironmentId;
use postrider_domain::clock::Clock;
use postrider_domain::entropy::Entropy;
use postrider_domain::ids::{Id as _, KeyId};
use postrider_domain::settings::{Span, visible};
use postrider_store::{ApiKey, ApiKeys as _, KeyHash, Store, WriteError};
use postrider_store_sqlite::{Ownership, SqliteStore};

use super::settings::Settings;
use crate::{terminal, wiring};

postrider_domain::limits! {
    in "API keys";
    /// The name of a key
    const MAX_NAME_CHARS: usize = 256, "characters", beyond "`postrider key create` refuses it";
}

/// What every key begins with.
const PREFIX: &str = "pk_";

/// How many characters of a key are kept, so that people recognise it.
const HINT_CHARACTERS: usize = 9;

/// Arguments of `key`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create a key and show it once
    Create {
        /// What the key is for, so that you know later
        #[arg(long, default_value = "")]
        name: String,
        /// The environment it belongs to
        #[arg(long, value_name = "ORG_ID", default_value = EnvironmentId::DEFAULT)]
        environment: String,
        /// Refuse it after this time, as in 90d
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<Span>,
        #[command(flatten)]
        common: Common,
    },
    /// List all keys, without their secrets
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Revoke a key; a running server refuses it within about a second
    Revoke {
        /// The key's id, from `postrider key list`
        id: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    settings: Settings,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs one action.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::block_on(async {
        match args.action {
            Action::Create { name, environment, expires_in, common } => {
                create(&common, name, &environment, expires_in.map(|span| span.0)).await
            }
            Action::List { common } => list(&common).await,
            Action::Revoke { id, common } => revoke(&common, &id).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Makes a key of the default environment; returns it with its text, which is kept nowhere.
pub(crate) async fn make(
    store: &dyn Store,
    name: &str,
    lifetime: Option<Duration>,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> anyhow::Result<(ApiKey, String)> {
    make_in(store, name.to_owned(), EnvironmentId::default_environment(), lifetime, clock, entropy).await
}

async fn make_in(
    store: &dyn Store,
    name: String,
    environment: EnvironmentId,
    lifetime: Option<Duration>,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> anyhow::Result<(ApiKey, String)> {
    let mut bytes = [0u8; 32];
    entropy.fill(&mut bytes);
    let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    let mut hash = KeyHash([0; 32]);
    hash.0.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref());
    let now = clock.now();
    let key = ApiKey {
        id: KeyId::new(now, entropy),
        hash,
        hint: text[..HINT_CHARACTERS].to_owned(),
        name,
        environment,
        scopes: vec!["*".to_owned()],
        created_at: now,
        expires_at: lifetime.map(|lifetime| now.saturating_add(lifetime)),
        last_used_at: None,
    };
    store.create_api_key(key.clone()).await.context("the key could not be stored")?;
    Ok((key, text))
}

/// Opens the store beside a server that may run on it, and says which one it is. Only `serve` makes stores: one that this
/// command made would be in the wrong folder as often as not.
fn open(common: &Common) -> anyhow::Result<SqliteStore> {
    let path = common.settings.load(None)?.config.sqlite_path()?;
    let store = SqliteStore::open(&path, Ownership::Guest)?;
    // The output stays what was asked for.
    let _ = writeln!(terminal::stderr(), "store: {}", std::path::absolute(&path).unwrap_or(path).display());
    Ok(store)
}

async fn create(common: &Common, name: String, environment: &str, lifetime: Option<Duration>) -> anyhow::Result<()> {
    let Some(environment) = EnvironmentId::parse(environment) else {
        bail!("'{environment}' is not the id of an environment: it must begin with {}", EnvironmentId::PREFIX);
    };
    if let Err(problem) = check_name(&name) {
        bail!("--name {problem}");
    }
    if lifetime.is_some_and(|lifetime| lifetime.is_zero()) {
        bail!(
            "--expires-in 0s makes a key that is never valid: give it some time, or leave it out for one that does not expire"
        );
    }
    let store = open(common)?;
    let (clock, entropy) = wiring::machine();
    let (key, text) = make_in(&store, name, environment, lifetime, clock.as_ref(), entropy.as_ref()).await?;
    store.close().await;
    if common.json {
        let mut shown = shown(&key);
        shown["key"] = text.into();
        return print(&shown.to_string());
    }
    print(&format!("{text}\n\nThis is the only time it is shown. Its id is {}.", key.id))
}

/// Whether a name can be shown in a line as it is. There may be none.
fn check_name(name: &str) -> Result<(), String> {
    let length = name.chars().count();
    if length > MAX_NAME_CHARS {
        return Err(format!("has {length} characters, and may have {MAX_NAME_CHARS}"));
    }
    if name.is_empty() { Ok(()) } else { visible(name).map_err(|problem| problem.to_string()) }
}

async fn list(common: &Common) -> anyhow::Result<()> {
    let store = open(common)?;
    let keys = store.api_keys().await?;
    store.close().await;
    if common.json {
        return print(&serde_json::Value::from_iter(keys.iter().map(shown)).to_string());
    }
    if keys.is_empty() {
        return print("There are no keys; `postrider key create` makes one.");
    }
    for key in keys {
        let when = |at: Option<postrider_domain::time::Timestamp>, never: &str| {
            at.map_or(never.to_owned(), |at| at.to_string())
        };
        print(&format!(
            "{}  {}…  {}  {}\n    created {}, expires {}, last used {}",
            key.id,
            key.hint,
            key.environment,
            key.name,
            key.created_at,
            when(key.expires_at, "never"),
            when(key.last_used_at, "never"),
        ))?;
    }
    Ok(())
}

async fn revoke(common: &Common, id: &str) -> anyhow::Result<()> {
    let Ok(key) = id.parse::<KeyId>() else {
        bail!("'{id}' is not a key's id: `postrider key list` shows them, they begin with {}", KeyId::PREFIX);
    };
    let store = open(common)?;
    let revoked = store.revoke_api_key(key).await;
    store.close().await;
    match revoked {
        Ok(()) if common.json => print(&serde_json::json!({ "id": key, "revoked": true }).to_string()),
        Ok(()) => print(&format!("{key} is revoked.")),
        Err(WriteError::NotFound) => bail!("there is no key {key}: `postrider key list` shows them all"),
        Err(error) => Err(error.into()),
    }
}

fn shown(key: &ApiKey) -> serde_json::Value {
    serde_json::json!({
        "id": key.id,
        "hint": key.hint,
        "name": key.name,
        "environment": key.environment.as_str(),
        "scopes": key.scopes,
        "createdAt": key.created_at,
        "expiresAt": key.expires_at,
        "lastUsedAt": key.last_used_at,
    })
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(terminal::stdout(), "{text}").context("cannot write the output")
}
