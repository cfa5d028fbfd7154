//! What hostile callers have in hand: an application's token, or the key of another environment, and loops that go on
//! until they are aborted.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use postrider_testkit::{Answer, App, TestServer, random, token};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// An operator of an environment of their own, and one of their tenants.
#[derive(Clone)]
pub(crate) struct Hostile {
    /// The application, used with the operator's token.
    pub(crate) operator: App,
    /// The same application, used with its own token.
    pub(crate) tenant: App,
    org: String,
}

/// Between two requests of one attacker: what is measured is what the server does, not what the attacker's own work takes
/// of the machine's cores.
const PAUSE: Duration = Duration::from_millis(5);

impl Hostile {
    /// With an environment of their own; or, if `POSTRIDER_ISOLATION_WITHIN` is `environment`, another customer of the healthy
    /// tenant's operator.
    pub(crate) async fn on(server: &TestServer) -> Self {
        let is_within = std::env::var("POSTRIDER_ISOLATION_WITHIN").is_ok_and(|within| within == "environment");
        let org = if is_within { server.org().to_owned() } else { format!("org_{}", random::name()) };
        let operator = App::create(server.client_with(Some(server.sign(&token::environment_claims(&org))))).await;
        let claims = token::application_claims(&org, &operator.id);
        let tenant = App { client: server.client_with(Some(server.sign(&claims))), id: operator.id.clone() };
        Self { operator, tenant, org }
    }

    /// The operator's token; or the application's, if the operator is the healthy tenant's own.
    pub(crate) fn token(&self, server: &TestServer) -> String {
        let is_within = self.org == server.org();
        let claims = if is_within {
            token::application_claims(&self.org, &self.tenant.id)
        } else {
            token::environment_claims(&self.org)
        };
        server.sign(&claims)
    }
}

/// Sends a request once, and judges that it gets as far as the attack is meant to get: one that is refused at its first step
/// harms nobody, whatever the server is like.
///
/// # Panics
/// If the answer has another status.
pub(crate) async fn arrives(app: &App, method: &Method, rest: &str, body: &Value, status: u16) -> Answer {
    app.client.request(method.clone(), &app.path(rest)).json(body).send().await.expect(status)
}

/// Repeats a request with `callers` callers at a time until aborted. Whatever is answered is fine.
pub(crate) fn repeat(attack: &mut JoinSet<()>, app: &App, callers: usize, method: &Method, rest: &str, body: &Value) {
    for _ in 0..callers {
        let (app, method, rest, body) = (app.clone(), method.clone(), rest.to_owned(), body.to_string());
        attack.spawn(async move {
            loop {
                let request = app.client.request(method.clone(), &app.path(&rest)).body(body.clone());
                // Refused or cut off is what is hoped for.
                let _ = request.header("content-type", "application/json").try_send().await;
                sleep(PAUSE).await;
            }
        });
    }
}

/// A connection from another address of this machine than the healthy tenant's.
pub(crate) async fn connect_from_elsewhere(to: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).ok()?;
    socket.connect(to).await.ok()
}
