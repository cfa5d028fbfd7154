//! What the cases share: a client, a receiver, waiting with a deadline, and how the SDK says no.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use svix::Error;
use svix::api::{MessageAttemptListByMsgOptions, Svix, SvixOptions};
use svix::models::*;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep, timeout};

const DEADLINE: Duration = Duration::from_secs(30);

pub fn client(token: &str) -> Svix {
    let server_url = Some(std::env::var("POSTRIDER_URL").unwrap());
    Svix::new(token.to_owned(), Some(SvixOptions { server_url, ..SvixOptions::default() }))
}

pub fn sdk() -> Svix {
    client(&std::env::var("POSTRIDER_TOKEN").unwrap())
}

/// A value with some members set, since the models have no defaults.
pub fn with<T>(mut value: T, set: impl FnOnce(&mut T)) -> T {
    set(&mut value);
    value
}

pub fn set<T, C: FromIterator<T>>(from: impl IntoIterator<Item = impl Into<T>>) -> C {
    from.into_iter().map(Into::into).collect()
}

/// Ids, by which lists are ordered, tell instants apart that are 4 ms from each other.
async fn apart() {
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
}

pub async fn app(set: impl FnOnce(&mut ApplicationIn)) -> ApplicationOut {
    apart().await;
    sdk().application().create(with(ApplicationIn::new("from Rust".into()), set), None).await.unwrap()
}

pub async fn endpoint(app: &ApplicationOut, url: &str, set: impl FnOnce(&mut EndpointIn)) -> EndpointOut {
    apart().await;
    sdk().endpoint().create(app.id.clone(), with(EndpointIn::new(url.into()), set), None).await.unwrap()
}

pub async fn message(app: &ApplicationOut, set: impl FnOnce(&mut MessageIn)) -> MessageOut {
    apart().await;
    let message = with(MessageIn::new("a".into(), serde_json::json!({})), set);
    sdk().message().create(app.id.clone(), message, None).await.unwrap()
}

pub async fn event_type(name: &str, set: impl FnOnce(&mut EventTypeIn)) -> EventTypeOut {
    sdk().event_type().create(with(EventTypeIn::new(name.into(), String::new()), set), None).await.unwrap()
}

pub async fn secret_of(app: &ApplicationOut, endpoint: &str) -> String {
    sdk().endpoint().get_secret(app.id.clone(), endpoint.into()).await.unwrap().key
}

pub struct Delivery {
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Delivery {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Both published verifiers take it, and refuse it when one byte is added.
    pub fn assert_verifies(&self, secret: &str) {
        svix::Webhook::new(secret).unwrap().verify(&self.body, &self.headers).unwrap();
        standardwebhooks::Webhook::new(secret).unwrap().verify(&self.body, &self.headers).unwrap();
        let longer = [&self.body[..], b" "].concat();
        assert!(svix::Webhook::new(secret).unwrap().verify(&longer, &self.headers).is_err());
    }
}

/// A webhook receiver on a free port. What arrives is taken from it with `next`.
pub struct Receiver {
    pub url: String,
    statuses: Arc<Mutex<VecDeque<u16>>>,
    arrived: UnboundedReceiver<Delivery>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let statuses = Arc::<Mutex<VecDeque<u16>>>::default();
        let (arrive, arrived) = unbounded_channel();
        let answers = Arc::clone(&statuses);
        let answer = move |request: Request<Incoming>| {
            let (arrive, answers) = (arrive.clone(), Arc::clone(&answers));
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                // Taken before the case hears of the request: what it then says with `answer` is for the next one.
                let status = answers.lock().unwrap().pop_front().unwrap_or(200);
                arrive.send(Delivery { headers: head.headers, body }).unwrap();
                Ok::<_, Infallible>(Response::builder().status(status).body(Empty::<Bytes>::new()).unwrap())
            }
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(answer.clone());
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { url, statuses, arrived }
    }

    /// What the next requests get.
    pub fn answer(&self, statuses: impl IntoIterator<Item = u16>) {
        self.statuses.lock().unwrap().extend(statuses);
    }

    pub fn is_empty(&self) -> bool {
        self.arrived.is_empty()
    }

    pub async fn next(&mut self) -> Delivery {
        timeout(DEADLINE, self.arrived.recv()).await.expect("waited in vain for a delivery").unwrap()
    }

    /// The ids of the next `count` deliveries, sorted.
    pub async fn ids(&mut self, count: usize) -> Vec<String> {
        let mut found = Vec::new();
        while found.len() < count {
            found.push(self.next().await.header("webhook-id").to_owned());
        }
        found.sort();
        found
    }
}

/// Looks again and again until `look` finds something.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The attempts of a message, as soon as there are `count`.
pub async fn attempts(
    app: &ApplicationOut,
    message: &MessageOut,
    count: usize,
    set: impl Fn(&mut MessageAttemptListByMsgOptions),
) -> Vec<MessageAttemptOut> {
    let sdk = sdk();
    eventually("attempts", async || {
        let options = with(MessageAttemptListByMsgOptions::default(), &set);
        let listed = sdk.message_attempt().list_by_msg(app.id.clone(), message.id.clone(), Some(options)).await;
        Some(listed.unwrap().data).filter(|found| found.len() >= count)
    })
    .await
}

pub fn codes(attempts: &[MessageAttemptOut]) -> Vec<i16> {
    attempts.iter().map(|one| one.response_status_code).collect()
}

/// The background task, when it has finished.
pub async fn finished(id: &str) -> BackgroundTaskOut {
    let sdk = sdk();
    eventually("the end of a task", async || {
        let found = sdk.background_task().get(id.to_owned()).await.unwrap();
        assert_ne!(found.status, BackgroundTaskStatus::Failed);
        Some(found).filter(|found| found.status == BackgroundTaskStatus::Finished)
    })
    .await
}

/// The call was answered with this status and code, and the SDK says so with its own error.
#[track_caller]
pub fn assert_refused<T: Debug>(result: svix::Result<T>, status: u16, code: &str) -> String {
    let Err(Error::Http(error)) = result else { panic!("{result:?}") };
    let payload = error.payload.expect("the SDK can read the body");
    assert_eq!((error.status.as_u16(), &*payload.code), (status, code));
    assert!(!payload.detail.is_empty());
    payload.detail
}

/// The call was answered with 422; where the mistake is.
#[track_caller]
pub fn assert_invalid<T: Debug>(result: svix::Result<T>) -> Vec<String> {
    let Err(Error::Validation(error)) = result else { panic!("{result:?}") };
    let first = error.payload.expect("the SDK can read the body").detail.swap_remove(0);
    assert!(!first.msg.is_empty() && !first.r#type.is_empty());
    first.loc
}
